"""How costs grow with a run's sizes: collectors, lanes, replay, batch and network, one at a time.

Here is what is measured for each size, and the tables and the picture of docs/performance.md. Not here: unit costs and
the model of whole runs, which the folder above has.
"""
