"""Tests of receiver.database."""
