"""Small measurements: one part of the product at a time, such as the collector, the learner or a checkpoint.

Here belongs one file a part, each a command that takes seconds or minutes. What needs a whole run to be judged belongs
in `learning`, `scaling` or `reliability`.
"""
