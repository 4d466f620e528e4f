"""The parts of codecatch, one process each, and the supervisor of ``codecatch up``."""

__all__ = ["parts", "supervisor"]
