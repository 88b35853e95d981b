"""Measurements of reverb-dqn: every figure in the documentation comes from a command `python -m benchmarks.FOLDER...`.

`peers` sets this library beside others, `learning` shows what is learned, `scaling` what many processes cost and what
larger runs would, `reliability` what faults do, and `parts` measures one part of the product at a time. A file directly
here is shared by several of them. Nothing of the product imports this package. Most commands end with a line of JSON.
"""
