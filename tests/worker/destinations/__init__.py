"""Tests of the places notifications go to."""
