"""A real cluster: reading what it says, installing the agents, following them, and leaving nothing behind."""
