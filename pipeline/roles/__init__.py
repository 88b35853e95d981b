"""Each role of a run as a process, from its start to its last report.

Belongs here: how a role's parts are assembled, and the loop that drives them. The parts are in the folders above; how
roles become processes is in `pipeline.launchers`.
"""
