"""How agents learn: collectors, replay, learner and evaluator, from one core to many processes.

From Python, `pipeline.train(pipeline.load("cartpole"), "runs/cartpole")` runs an experiment; commands are modules, such
as `python -m pipeline.train`, and `python -m pipeline` lists them.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.experiment.config import UsageError, load
    from pipeline.experiment.sections import Experiment
    from pipeline.launchers import train
    from pipeline.records.results import RunFailed, Summary

__all__ = ["Experiment", "RunFailed", "Summary", "UsageError", "load", "train"]

_HOMES = {
    "Experiment": "pipeline.experiment.sections",
    "RunFailed": "pipeline.records.results",
    "Summary": "pipeline.records.results",
    "UsageError": "pipeline.experiment.config",
    "load": "pipeline.experiment.config",
    "train": "pipeline.launchers",
}


def __getattr__(name: str) -> Any:
    # When first asked for: `pipeline.doctor` has to run where packages are missing, and help is there at once.
    if name not in _HOMES:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
