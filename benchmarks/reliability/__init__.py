"""Faults on purpose: long runs and drills whose processes are killed, and hosts that are cut off or go down.

Here belongs what breaks a whole run and looks at what is left of it, with the network namespaces that stand for hosts.
The faults themselves are the product's (`pipeline.drill`). What a guard costs while nothing fails belongs in `parts`.
"""
