"""The learner: gradient steps, feeding, divergence and recovery, checkpoints of what it learns.

Belongs here: the work of one learner. Several learners are in `pipeline.learner.workers`; the learner's process is in
`pipeline.roles`; the mathematics of an algorithm is in `agents`.
"""
