"""Sessions that can be shown to strangers: other addresses and names, the same verdicts."""
