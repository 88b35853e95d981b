"""What a run counts and keeps: counters, the ledger, recorders of processes, results, checkpoints.

Belongs here: exact numbers and the files that hold them. What people are shown of them is in `pipeline.monitoring`.
"""
