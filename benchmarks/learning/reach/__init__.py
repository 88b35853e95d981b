"""What the shipped configs reach: tasks with targets, every seed counted, and docs/results.md.

Here belong the targets, the runs and their page. Tasks whose return says little by itself have a benchmark of their own
beside this folder (`driving.py`, `trading/`).
"""
