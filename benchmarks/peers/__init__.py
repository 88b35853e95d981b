"""Ours and its peers at the same works, in turn, each in a virtual environment of its own."""
