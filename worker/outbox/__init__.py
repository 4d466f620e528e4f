"""Work left to do, as rows: planned, claimed under a lease, swept, limited by call budgets."""

__all__ = ["backoff", "call_budgets", "leases", "planner", "sweep"]
