"""Maintenance of stored data: retention, erasure, key rotation, operator actions."""

__all__ = ["erasure", "key_rotation", "operator_actions", "retention"]
