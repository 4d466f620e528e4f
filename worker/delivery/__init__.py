"""Delivers notifications to destinations: claims rows, sends messages, records the outcome."""

__all__ = ["compose", "deliver", "destination_lock", "diversion", "sender_pool"]
