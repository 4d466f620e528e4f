"""Limits and deadlines on top of uvicorn's HTTP/1.1 protocol."""

__all__ = ["fast_path", "protocol", "request_cycle"]
