"""An evaluator: greedy episodes with fixed seeds, the best policy, and pictures of episodes.

Belongs here: one evaluator's work. Its process, from start to last report, is in `pipeline.roles`.
"""
