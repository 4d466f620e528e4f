"""Destinations of notifications: one module for each kind."""

__all__ = ["base", "registry"]
