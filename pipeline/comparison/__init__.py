"""Runs as data: one by itself (`Run`) and several beside each other, with their curves, groups, intervals and figures.

Belongs here: what `pipeline.Run`, `python -m pipeline.plot` and the results of sweeps share. Nothing here starts a run.
"""
