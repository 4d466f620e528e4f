"""The text of notifications; each destination adds its own markup."""

__all__ = ["masking", "text"]
