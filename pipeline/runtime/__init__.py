"""What a process needs from its machine: C++ bindings without TensorFlow, threads and memory, signals, whole folders.

Belongs here: what would be the same in another project. Nothing here knows what a run, a frame or an agent is.
"""
