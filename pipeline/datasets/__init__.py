"""Experience in files: what a dataset holds, its formats, and learning from it without collectors.

Belongs here: reading and writing datasets, and putting one into a replay. Looking into a run's replay is in
`pipeline.inspection`.
"""
