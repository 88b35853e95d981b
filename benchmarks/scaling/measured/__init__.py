"""The processes that the scaling benchmark measures: runs whose roles it starts, light clients, a learner in parts.

Here belongs what runs in those processes, and how they are started, rested and counted. What is measured of them, and
what is made of the figures, is in the folder above.
"""
