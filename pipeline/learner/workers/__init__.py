"""Several learners that hold one network: who they are, their shares of a batch, what they say to each other.

Belongs here: what a run needs only if `learner.workers` is more than one.
"""
