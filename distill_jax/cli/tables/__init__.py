"""The parts of ``reproduce``: tables of published figures, and comparisons of methods."""
