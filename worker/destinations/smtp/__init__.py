"""SMTP for the e-mail destination: sessions, their pool, and deadlines."""

__all__ = ["deadline", "pool", "session", "url"]
