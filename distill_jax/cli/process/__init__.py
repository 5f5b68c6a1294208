"""The process of a command: its exit code, its signals, its clock, the backend, and several hosts."""
