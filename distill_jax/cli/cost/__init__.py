"""What a method costs: arithmetic, memory, and time on an accelerator that this machine lacks."""
