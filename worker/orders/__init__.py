"""Orders and their codes: the state machine, and how reports are merged into what is known."""

__all__ = ["batch", "codes", "merge", "numbers", "state_machine", "store"]
