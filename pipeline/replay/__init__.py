"""The path of experience from a collector to the learner: frames, writer, server, and the learner's client.

Belongs here: what an ordinary run with one replay server uses. Several servers are in `pipeline.replay.shards`; looking
into a stored replay is in `pipeline.datasets`, which `python -m pipeline.replay` uses.
"""
