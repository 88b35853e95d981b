"""A policy's episodes as pictures, with what the policy thinks of each action, in a window or a video.

Belongs here: what `python -m pipeline.play` does. Scoring a policy is in `pipeline.evaluator`.
"""
