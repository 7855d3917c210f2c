"""A leg → the steps of its packet and the hops that a report shows; and whose each address is."""
