"""Tests of the tests: `python -m pylayers.testing.mutants`."""
