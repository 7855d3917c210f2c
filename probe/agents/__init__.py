"""Three ways to get observations behind one protocol: a cluster, the lab, a recording."""
