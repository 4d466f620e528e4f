"""Work that is left to do, as rows: planned, claimed under a lease, swept, paid for."""

__all__ = ["backoff", "call_budgets", "leases", "planner", "sweep"]
