"""Fixtures of the tests of data."""

from serving import known, server  # noqa: F401
