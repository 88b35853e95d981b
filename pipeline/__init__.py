"""How agents learn: collectors, replay, learner and evaluator, from one core to many processes.

From Python, `pipeline.train(pipeline.load("cartpole"), "runs/cartpole")` runs an experiment; commands are modules, such
as `python -m pipeline.train`, and `python -m pipeline` lists them.
"""

import importlib
import importlib.util
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.callbacks import (
        STOP,
        Callback,
        CsvLogger,
        ProgressBar,
        Started,
        Stop,
        StopAfter,
        StopOnNoImprovement,
        Tracker,
    )
    from pipeline.comparison.run import CheckpointInfo, Run
    from pipeline.environments import EnvironmentFault
    from pipeline.evaluator.evaluation import EvaluationResult, evaluate
    from pipeline.experiment.config import load
    from pipeline.experiment.sections import Experiment
    from pipeline.export.loaded_policy import GreedyPolicy, load_policy
    from pipeline.launchers import train
    from pipeline.launchers.conclusion import RunFailed
    from pipeline.messages.contents import Evaluation
    from pipeline.records.results import Status, Summary
    from pipeline.sweep.call import SweepResult, sweep

__all__ = [
    "STOP", "Callback", "CheckpointInfo", "CsvLogger", "EnvironmentFault", "Evaluation", "EvaluationResult",
    "Experiment", "GreedyPolicy", "ProgressBar", "Run", "RunFailed", "Started", "Status", "Stop", "StopAfter",
    "StopOnNoImprovement", "Summary", "SweepResult", "Tracker", "UsageError", "evaluate", "load", "load_policy",
    "sweep", "train",
]  # fmt: skip

_HOMES = {
    "callbacks": "STOP Callback CsvLogger ProgressBar Started Stop StopAfter StopOnNoImprovement Tracker",
    "comparison.run": "CheckpointInfo Run",
    "environments": "EnvironmentFault",
    "evaluator.evaluation": "EvaluationResult evaluate",
    "experiment.config": "load",
    "experiment.sections": "Experiment",
    "export.loaded_policy": "GreedyPolicy load_policy",
    "launchers": "train",
    "launchers.conclusion": "RunFailed",
    "messages.contents": "Evaluation",
    "records.results": "Status Summary",
    "sweep.call": "SweepResult sweep",
}
"""Where the names are defined, which are imported when they are first asked for."""


class UsageError(Exception):
    """A mistake of the user's, in one line that says what to do; entry points end with exit code 2."""

    def __init__(self, sentence: str) -> None:
        super().__init__(" ".join(sentence.splitlines()))  # what it quotes may have more


def _refuse_other_agents() -> None:
    """Says so where a folder or a file of the user's hides our package `agents`, which nothing here works without."""
    loaded = sys.modules.get("agents")
    spec = importlib.util.find_spec("agents") if loaded is None else loaded.__spec__
    ours = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "agents")
    found = [] if spec is None else spec.submodule_search_locations or [spec.origin or ""]
    places = [os.path.realpath(place) for place in found]
    if not places or ours in places or not os.path.isdir(ours):
        return
    sentence = f"{places[0]} hides the package agents that pipeline needs: rename it, or start Python in another folder"
    if sys.argv[:1] == ["-m"]:  # a command of ours, which says what is wrong in one line
        print(f"error: {sentence}", file=sys.stderr)
        raise SystemExit(2)
    raise ImportError(sentence)


_refuse_other_agents()


def __getattr__(name: str) -> Any:
    # When first asked for: `pipeline.doctor` has to run where packages are missing, and help is there at once.
    if name == "__version__":
        return importlib.import_module("pipeline.runtime.installation").version()
    home = next((module for module, names in _HOMES.items() if name in names.split()), None)
    if home is None:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    return getattr(importlib.import_module(f"pipeline.{home}"), name)
