"""Tests of the receiver's HTTP server."""
