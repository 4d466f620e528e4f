"""What operators and the clock do to stored data: retention, erasure, key rotation, replays."""

__all__ = ["erasure", "key_rotation", "operator_actions", "retention"]
