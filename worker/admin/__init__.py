"""The admin process: its HTTP application and metrics."""

__all__ = ["app", "settings"]
