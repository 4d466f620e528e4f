"""Turns an event of the inbox into an order, a code and follow-ups, in one commit."""

__all__ = ["handle", "ready_codes"]
