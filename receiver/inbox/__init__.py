"""Stores incoming events durably: the inbox, the group commit and the spool."""

__all__ = ["group_commit", "pending", "rejections", "spool", "spool_drain", "store"]
