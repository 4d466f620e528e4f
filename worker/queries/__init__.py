"""What operators ask the database: read-only, newest first, and fast over a million rows.

Every function takes a session and returns plain rows (``dict``): sealed columns opened, times
aware. What is shown of a secret is decided by whoever shows it.
"""

__all__ = ["codes", "destinations", "events", "filters", "followups", "orders", "statistics"]
