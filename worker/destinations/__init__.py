"""Where notifications go: one module for each kind of destination."""

__all__ = ["base", "registry"]
