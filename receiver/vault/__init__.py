"""Secrets at rest: sealed (encrypted) values, and keyed digests to find them by."""

__all__ = ["index_key", "sealing"]
