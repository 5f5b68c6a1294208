"""One file or folder per axis of a method (``types.py`` has their contracts)."""
