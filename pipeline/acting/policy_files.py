"""Policies on disk: a program, its weights and where they come from, in one file of typed msgpack (no pickle).

The file is a pair: a checksum, and the policy's own bytes. TFLite parses a program without checking it, and a damaged
one may end the process. Files of older versions are the policy alone.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from gymnasium import spaces

from pipeline.environments.lanes.spaces import leaves_of, specs_of
from pipeline.experiment.sections import Experiment
from pipeline.messages.contents import Array


class Leaf(msgspec.Struct, frozen=True):
    """One array of the observations that a policy was trained on."""

    shape: tuple[int, ...]
    dtype: str
    """As agents see it."""
    maximum: tuple[int, ...]
    """Of whole numbers; see `ArraySpec.maximum`."""
    scale: float = 0.0
    """Largest bound of other numbers; 0 where they have none."""


class MadeFor(msgspec.Struct, frozen=True):
    """What a policy was trained on: observations, one at a time, and actions."""

    leaves: dict[str, Leaf]
    num_actions: int
    action_sizes: tuple[int, ...] = ()
    """Of the dimensions of an action; empty where it is one number."""

    @classmethod
    def of(cls, observation: spaces.Space[Any], action: spaces.Space[Any]) -> "MadeFor":
        """What a policy for an environment with these spaces is made for."""
        specs = specs_of(observation, action, masked=False)
        scales = {name: _scale(space) for name, space, _ in leaves_of(observation, "", lambda batch: batch)}
        leaves = {name: Leaf(*spec[:3], scales[name]) for name, spec in specs.leaves().items()}
        return cls(leaves, specs.num_actions, specs.action_sizes)


def _scale(space: spaces.Space[Any]) -> float:
    if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
        return 0.0
    bounds = np.abs(np.concatenate([np.ravel(space.low), np.ravel(space.high)]).astype(np.float64))
    return float(np.max(bounds, where=bounds < _NO_BOUND, initial=0.0))


_NO_BOUND = 1e30
"""Numbers of float32's size stand for none."""


class Policy(msgspec.Struct, frozen=True):
    """A greedy policy; it acts without TensorFlow unless its program is empty."""

    program: bytes
    weights: tuple[Array, ...]
    environment_steps: int
    gradient_steps: int
    mean_return: float
    made_for: MadeFor | None = None
    """None of a policy that nobody has seen act."""
    score: float | None = None
    """What it was judged by: the mean return, or the mean that `stop.target` names; None in files of older versions."""
    judged_by: str = ""
    """Settings that the mean return depends on; empty where none are known."""


def judged_by(experiment: Experiment) -> str:
    """What mean returns depend on, as text: those of other settings are not compared with each other."""
    settings = msgspec.to_builtins(experiment.evaluation) if experiment.evaluates else {}
    if experiment.stop.target != "return":
        settings["target"] = experiment.stop.target
    for unrelated in ("every_steps", "images"):
        settings.pop(unrelated, None)
    return msgspec.json.encode(settings, order="sorted").decode()


def save(policy: Policy, folder: Path) -> None:
    """Writes `folder/policy.msgpack`; a reader sees the old file or the new one, never a part."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / "policy.msgpack.part"
    data = msgspec.msgpack.encode(policy)
    with part.open("wb") as file:
        file.write(msgspec.msgpack.encode((checksum_of(data), data)))
        file.flush()
        os.fsync(file.fileno())
    part.replace(folder / "policy.msgpack")


def checksum_of(data: bytes) -> bytes:
    """The first of the pair in a file: of the second, the policy's own bytes."""
    return hashlib.blake2b(data, digest_size=16).digest()
