"""What travels beside experience, and how: publications of weights, reports of the roles, and the channel for both.

Belongs here: contents of messages, the channel, addresses and ports, dead connections, bytes counted. Experience itself
travels through `pipeline.replay`.
"""
