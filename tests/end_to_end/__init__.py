"""The whole of codecatch, run as its users run it."""
