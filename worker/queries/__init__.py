"""Read-only queries for operators: newest rows first, served by indexes over a million rows.

Functions take a session and return plain rows (``dict``) with sealed columns opened and aware
times. The caller masks secrets before it shows them.
"""

__all__ = ["codes", "destinations", "events", "filters", "followups", "orders", "statistics"]
