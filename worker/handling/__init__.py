"""Turns an inbox event into an order, a code and follow-ups, in one commit."""

__all__ = ["handle", "ready_codes"]
