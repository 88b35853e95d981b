"""Breaking a run on purpose, to check that every loss is counted.

Belongs here: what `python -m pipeline.drill` does: faults, and the checks after them.
"""
