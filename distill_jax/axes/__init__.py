"""One file or package per axis of a method. ``contracts.py`` defines the interface of each axis."""
