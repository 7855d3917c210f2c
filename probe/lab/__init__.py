"""The lab: a cluster of network namespaces with the real kernel's NAT and real servers."""
