"""Many runs of one config with other values and seeds: which, how they are run, and what came of them.

Belongs here: what `python -m pipeline.sweep` does. Curves and intervals are in `pipeline.comparison`.
"""
