"""What the objects of a cluster say before any packet: the checks of `probe check`, each a pure function."""
