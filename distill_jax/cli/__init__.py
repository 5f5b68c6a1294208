"""The command line: a module for each command, and folders of the parts that they are made of."""
