"""`probe decode`: PROXY headers from hex, lines and captures."""
