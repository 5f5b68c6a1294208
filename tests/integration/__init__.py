"""Tests of whole commands, whole methods and several processes (make integration)."""
