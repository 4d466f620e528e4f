"""Inbound webhooks: each provider module authenticates and parses one provider's. No I/O."""

__all__ = [
    "base",
    "daisysim",
    "phone_numbers",
    "plain_text",
    "registry",
    "signatures",
    "strict_json",
    "virtualsms",
]
