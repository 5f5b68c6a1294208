"""From the words of a command line to the options, the experiment and the data set."""
