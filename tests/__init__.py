"""Tests of codecatch."""
