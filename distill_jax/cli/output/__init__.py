"""What a command shows: lines on the terminal, and pictures."""
