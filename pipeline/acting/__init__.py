"""A network that acts without TensorFlow, the frame stacks that it sees, and policies as files.

Belongs here: what collectors, evaluators and exports need to choose actions. Exploration is in `agents`.
"""
