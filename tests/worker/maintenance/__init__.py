"""Tests of worker.maintenance."""
