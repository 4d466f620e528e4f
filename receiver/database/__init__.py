"""The database: engines, statements and the columns shared by all work tables."""

__all__ = [
    "autocommit",
    "bulk",
    "compatibility",
    "engine",
    "followup",
    "heartbeats",
    "probe",
    "row_values",
    "trouble",
]
