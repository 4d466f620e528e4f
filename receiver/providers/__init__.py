"""Inbound webhooks: each provider module authenticates and parses one provider's. No I/O."""

__all__ = ["base", "daisysim", "registry", "signatures", "strict_json", "times", "virtualsms"]
