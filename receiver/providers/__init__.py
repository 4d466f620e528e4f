"""Inbound webhooks: each provider module authenticates and parses one provider's. No I/O."""

__all__ = [
    "base",
    "daisysim",
    "payload",
    "phone_numbers",
    "plain_text",
    "registry",
    "signatures",
    "times",
    "virtualsms",
]
