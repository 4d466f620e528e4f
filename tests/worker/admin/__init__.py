"""Tests of the admin part."""
