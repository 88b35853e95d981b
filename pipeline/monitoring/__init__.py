"""What people see of a run: TensorBoard, the terminal, `status.json`.

Belongs here: how numbers are shown. The numbers themselves are in `pipeline.records`.
"""
