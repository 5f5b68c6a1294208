"""The parts of ``analyse``: the papers' evidence, measured, drawn, and stated in sentences."""
