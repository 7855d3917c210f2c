"""A capture while it goes on: what has come so far, for people who watch and for programs."""
