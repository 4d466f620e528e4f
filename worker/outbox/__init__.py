"""Work left to do, as rows: planned, claimed under a lease, swept, limited by call budgets."""

__all__ = ["backoff", "call_budgets", "clock_jumps", "leases", "planner", "sweep"]
