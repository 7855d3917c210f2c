"""Legs → journeys: what ties the connections on both sides of a balancer or proxy to one another."""
