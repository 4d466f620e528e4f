"""Routes, destinations and policies, read from the environment and codecatch.toml."""

__all__ = ["destination_policy", "durations", "event_policy", "file", "routing", "settings"]
