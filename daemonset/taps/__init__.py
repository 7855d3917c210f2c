"""Where packets are captured: the kernel filter, the ring, the sniffer, and files that stand in for them."""
