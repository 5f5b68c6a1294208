"""The parts of a run that commands share: its setup, its folder, its scores, and how it resumes."""
