"""Runs the parts of codecatch, one process each, and supervises them under ``codecatch up``."""

__all__ = ["parts", "supervisor"]
