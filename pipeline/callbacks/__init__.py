"""What runs in the caller's process while a run goes on: callbacks of `pipeline.train`, and what tells them of the run.

Belongs here: `Callback`, those that come with the package, and the notifier, which reads the run's directory and so is
the same for all launchers; and what brings its checkpoints to a mirror. Nothing here is part of a role.
"""

from pipeline.callbacks.callback import STOP, Callback, Started, Stop
from pipeline.callbacks.csv_logger import CsvLogger
from pipeline.callbacks.progress_bar import ProgressBar
from pipeline.callbacks.stopping import StopAfter, StopOnNoImprovement
from pipeline.callbacks.tracker import Tracker

__all__ = [
    "STOP",
    "Callback",
    "CsvLogger",
    "ProgressBar",
    "Started",
    "Stop",
    "StopAfter",
    "StopOnNoImprovement",
    "Tracker",
]
