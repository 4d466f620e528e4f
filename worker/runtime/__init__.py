"""What one process works with: database, vault, broker, provider clients and destinations."""

__all__ = ["child_process", "installation", "integrations", "runtime"]
