"""Service forwarding by the kernel, as text for iptables-restore and nft: pure functions of the cluster's facts.

The structure is kube-proxy's (names of chains, maps and marks; what is accepted, dropped, masqueraded and when),
so that what is learnt from the lab's kernel is true of a real node.
"""
