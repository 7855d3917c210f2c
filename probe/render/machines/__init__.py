"""The report for programs, and for the tools that show it elsewhere."""
