"""What the owner of this installation chose, in the environment and in codecatch.toml."""

__all__ = ["destination_policy", "durations", "event_policy", "file", "routing", "settings"]
