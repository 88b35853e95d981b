"""Playing episodes with a policy in a window or a video, beside its Q-values for each action.

Belongs here: what `python -m pipeline.play` does. Scoring a policy is in `pipeline.evaluator`.
"""
