"""One renderer a format, all from the one report."""
