"""Benchmarks of codecatch against three other receivers: `python -m tests.bench`.

README.md has the results and what they mean.
"""
