"""Clients of the providers' APIs, one package each."""

__all__ = [
    "base",
    "capabilities",
    "daisysim",
    "errors",
    "fields",
    "registry",
    "reported_order",
    "results",
    "virtualsms",
]
