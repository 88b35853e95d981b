"""Looking into the replay of a run, stored or live, and exporting it as a dataset.

Belongs here: what `python -m pipeline.replay` does. Nothing here is part of a run.
"""
