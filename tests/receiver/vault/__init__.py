"""Tests of receiver.vault."""
