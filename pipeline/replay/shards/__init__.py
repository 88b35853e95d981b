"""A replay in other processes: one server that may be away, or several that hold one ratio together.

Belongs here: what a run needs only if its replay is not in the learner's process. It imports `pipeline.replay`, never
the other way.
"""
