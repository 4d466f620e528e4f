"""Measures codecatch against a bare endpoint and two usual ways: `python -m tests.bench`."""
