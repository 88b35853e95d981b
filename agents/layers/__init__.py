"""Layers of a network that a config asks for beside the ordinary ones.

Each is imported by a network that has it, so that an ordinary run loads none of them.
"""
