"""Typed configurations of the kinds of agent. No TensorFlow here: processes without it read them, too.

Each is imported when a config names its kind: `agents.BUILDERS` says where it is.
"""
