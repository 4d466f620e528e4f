"""The database: engines, statements and the columns shared by all work tables."""

__all__ = [
    "autocommit",
    "bulk",
    "engine",
    "followup",
    "heartbeats",
    "probe",
    "row_values",
    "trouble",
]
