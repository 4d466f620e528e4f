"""What we ask a provider: one module for each, found by :mod:`worker.providers.registry`."""
