"""What a run's processes share with the command: where modules are found, working folder, variables, devices."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.experiment.config import UsageError
from pipeline.experiment.sections import Experiment

_START = Path(__file__).with_name("start_in_world.py")
_OURS = str(Path(__file__).resolve().parents[2])
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
INHERIT = "inherit"
"""Of `collect.devices`: the devices that the command sees."""


class World(NamedTuple):
    """What a process sees before it has imported anything."""

    path: tuple[str, ...]
    """Where modules are found, as absolute paths."""
    folder: str
    """The working directory."""
    variables: dict[str, str]
    """The environment variables."""

    @classmethod
    def here(cls) -> "World":
        """Of this process, now: what it changes later is not seen by the run's processes, nor by those restarted.

        Raises:
          UsageError: no process can be started from here.
        """
        if not sys.executable:
            raise UsageError(
                "this Python does not know its own program, so it starts no roles: use the launcher inline"
            )
        try:
            folder = os.getcwd()
        except FileNotFoundError:
            raise UsageError("the working directory does not exist any more: change to one that does") from None
        path = [os.path.abspath(entry) for entry in sys.path if isinstance(entry, str)]
        return cls(tuple(dict.fromkeys([*path, _OURS])), folder, dict(os.environ))

    def within(self, other: "World") -> "World":
        """As much of this world as there is on another machine, whose own is `other`."""
        path = [entry for entry in self.path if os.path.exists(entry)]
        folder = self.folder if os.path.isdir(self.folder) else other.folder
        return World(tuple(dict.fromkeys([*path, *other.path])), folder, other.variables)

    def command(self, module: str, arguments: Sequence[str]) -> list[str]:
        """A command that runs a module in a process that finds modules where this world has them."""
        optimized = ["-O"] * sys.flags.optimize
        return [sys.executable, *optimized, "-P", str(_START), module, *arguments, json.dumps(self.path)]

    def variables_of(self, role: str, experiment: Experiment) -> dict[str, str]:
        """Environment variables of a role's process, which limit its libraries' threads and its devices."""
        variables = {"TF_CPP_MIN_LOG_LEVEL": "2", "GRPC_VERBOSITY": "ERROR", **self.variables}
        is_central = experiment.collect.inference == "central"
        if is_central and role in ("learner", "inference"):  # they share the GPUs, and TensorFlow would take all memory
            variables = {"TF_FORCE_GPU_ALLOW_GROWTH": "true", **variables}
        if role != "learner":
            variables = {**dict.fromkeys(_ONE_THREAD, "1"), **variables}
            if role != "inference" and experiment.collect.devices != INHERIT:
                variables["CUDA_VISIBLE_DEVICES"] = experiment.collect.devices
        return variables
