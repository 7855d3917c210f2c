"""The catalogue of findings: codes, texts, fixes, and a picture of each."""
