"""Both providers, simulated: their APIs, and their signed webhooks with configurable faults."""

__all__ = ["knobs", "server", "signed_webhooks", "webhooks"]
