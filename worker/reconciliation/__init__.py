"""Finds what the providers know and we do not: codes, ended orders, paused subscriptions."""

__all__ = ["claim", "merge", "reconcile", "schedule"]
