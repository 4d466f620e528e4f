"""The only outbound HTTP client, and the hosts and addresses that it may reach."""

__all__ = ["blocking", "client"]
