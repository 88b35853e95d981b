"""Several learners that hold one network: who they are, their shares of a batch, what they say to each other.

Belongs here: what a run needs only if several learners share it, as TF_CONFIG says.
"""
