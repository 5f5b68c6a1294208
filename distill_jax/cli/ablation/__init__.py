"""The parts of ``ablate``: the settings that it sweeps, the runs, and their picture."""
