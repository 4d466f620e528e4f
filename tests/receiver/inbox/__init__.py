"""Tests of receiver.inbox."""
