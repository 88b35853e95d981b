"""Many runs of one config with other values and seeds: which ones, how they are run, and their results.

Belongs here: what `python -m pipeline.sweep` does. Curves and intervals are in `pipeline.comparison`.
"""
