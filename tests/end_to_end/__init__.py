"""End-to-end tests: codecatch run by its command, with fake external services."""
