"""Who is kept out of a run: privacy on one machine, certificates and haproxy between hosts.

Belongs here: what decides who may connect. Who speaks with whom, and what they say, is in `pipeline.messages`.
"""
