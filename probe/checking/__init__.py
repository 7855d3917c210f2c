"""From a cluster, or from files, to what the checks look at."""
