"""What a node knows of itself: topology, NAT records, rules, health-check ports."""
