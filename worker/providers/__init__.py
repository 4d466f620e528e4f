"""What we ask the providers: one package for each provider's API."""

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
