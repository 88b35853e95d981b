"""Environments by other interfaces than gymnasium's, as gymnasium's: dm_env, TF-Agents, gym, PettingZoo.

Belongs here: environments by import path, what tells interfaces apart, and a file for each adapter.
`pipeline.environments.lanes` steps what comes out.
"""
