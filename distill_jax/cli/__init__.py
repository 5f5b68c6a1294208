"""The command line: arguments, process, workdir, display, and one file per command."""
