"""Environments in lockstep, one lane each: what all of them share, whatever suite they are from.

Belongs here: stepping, spaces, masks and shields, faults, rendering. What one suite alone needs is a file of
`pipeline.environments`.
"""
