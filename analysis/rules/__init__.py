"""The kernel's own account of the rules that packets met, in words and as blame."""
