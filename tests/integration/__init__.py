"""Tests of whole commands and of several processes, which take half of the time of all tests (make integration)."""
