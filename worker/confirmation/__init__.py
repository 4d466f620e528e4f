"""Settles codes with their providers: verifies them, and confirms orders, never charging twice."""

__all__ = ["claim", "confirm"]
