"""The packets of a session as a file for Wireshark."""
