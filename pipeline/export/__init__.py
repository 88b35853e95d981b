"""A trained policy for use elsewhere: as SavedModel, TFLite and ONNX, and over HTTP.

Belongs here: what `python -m pipeline.export` and `python -m pipeline.serve` do. Nothing here is part of a run.
"""
