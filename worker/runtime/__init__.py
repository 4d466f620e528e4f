"""The objects one process works with: database, vault, broker, provider clients, destinations."""

__all__ = ["child_process", "installation", "integrations", "runtime"]
