"""Breaking a run on purpose, to see that nothing is lost without being counted.

Belongs here: what `python -m pipeline.drill` does: faults, and the checks after them.
"""
