"""Runs beside each other: their curves, groups, intervals and figures.

Belongs here: what `python -m pipeline.plot` and the results of sweeps share. Nothing here starts a run.
"""
