"""One file per method: its training loss and its reconstruction."""
