"""What the providers send: each module authenticates and reads one provider's webhooks. No I/O."""

__all__ = ["base", "daisysim", "registry", "signatures", "strict_json", "virtualsms"]
