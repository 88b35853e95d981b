"""A collector: it steps its lanes, explores, and writes frames into the replay.

Belongs here: one collector's work. Its process, from start to last report, is in `pipeline.roles`.
"""
