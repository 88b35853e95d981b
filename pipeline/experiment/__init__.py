"""What a config says: its sections, loading, validation, fields as text, what a resume may change, the run directory.

Belongs here: everything that is known of a run before any part of it starts. Nothing here starts or reads a part of a
run.
"""
