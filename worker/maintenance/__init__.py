"""Maintenance of stored data: retention, erasure, key rotation, numbers, operator actions."""

__all__ = ["erasure", "key_rotation", "operator_actions", "retention", "stored_numbers"]
