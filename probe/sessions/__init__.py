"""Sessions: agents' streams on their way into a recording, and the folders that keep them."""
