"""The output of ``tune``."""
