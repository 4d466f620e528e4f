"""VirtualSMS's REST API, version 2."""

__all__ = ["api"]
