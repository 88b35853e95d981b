"""Learning results: whole training runs, judged by the return of what they have learned or by the time they took.

Here belongs what trains shipped configs and scores their policies, beside baselines, targets and published figures.
Speed without learning belongs in `parts`; other libraries' runs belong in `peers`.
"""
