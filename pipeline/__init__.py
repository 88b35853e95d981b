"""How agents learn: collectors, replay, learner and evaluator, from one core to many processes.

From Python, `pipeline.train(pipeline.load("cartpole"), "runs/cartpole")` runs an experiment; commands are modules, such
as `python -m pipeline.train`.
"""

from pipeline.config import UsageError, load
from pipeline.experiment import train
from pipeline.results import Summary
from pipeline.sections import Experiment

__all__ = ["Experiment", "Summary", "UsageError", "load", "train"]
