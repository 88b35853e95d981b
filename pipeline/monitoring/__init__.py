"""What people and their programs see of a run: TensorBoard, the terminal, `status.json`, Prometheus, health, logs.

Belongs here: how numbers are shown. The numbers themselves are in `pipeline.records`.
"""
