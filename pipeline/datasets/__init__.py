"""Experience in files: what a dataset holds, its formats, learning from it, and looking into what a replay has stored.

Belongs here: reading and writing datasets, putting one into a replay, and what `python -m pipeline.replay` does with
the replay of a run, stored or live.
"""
