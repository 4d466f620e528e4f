"""The public side: verify a webhook, store it, acknowledge it, wake the worker."""
