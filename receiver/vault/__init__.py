"""Secrets at rest: values are sealed, and digests of them are keyed."""

__all__ = ["index_key", "sealing"]
