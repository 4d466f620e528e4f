"""DaisySIM's API, version 1.0."""

__all__ = ["api"]
