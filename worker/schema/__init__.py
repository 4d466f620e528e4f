"""The tables, the values of their state columns, and the migrations."""

__all__ = ["migrate", "models", "states"]
