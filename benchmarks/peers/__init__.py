"""Comparisons with other libraries: ours and each peer do the same works, each in a virtual environment of its own.

Here belong the works, the peers' programs (`programs/`), their pinned packages (`requirements/`) and the page that is
written from the results. What compares this library only with itself, or with published figures, does not.
"""
