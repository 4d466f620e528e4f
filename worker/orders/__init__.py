"""Orders and their codes: the state machine, and how reports are merged into what is known."""

__all__ = ["batch", "codes", "merge", "state_machine", "store"]
