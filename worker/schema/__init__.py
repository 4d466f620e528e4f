"""The tables, the words in their columns, and the migrations."""

__all__ = ["migrate", "models", "states"]
