"""Tests of the provider API clients."""
