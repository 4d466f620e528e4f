"""Outbound HTTP: the only client, and the hosts and addresses that it may reach."""

__all__ = ["client"]
