"""Both providers, simulated: their APIs, and signed webhooks that repeat, vanish or come late."""

__all__ = ["knobs", "server", "signed_webhooks", "webhooks"]
