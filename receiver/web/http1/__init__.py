"""HTTP/1.1: limits and deadlines on top of uvicorn's protocol, and a fast path for webhooks."""

__all__ = ["fast_path", "protocol", "request_cycle"]
