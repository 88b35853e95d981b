"""Policies on disk: a program, its weights and where they come from, in one file of typed msgpack (no pickle).

The file is a pair: a checksum, and the policy's own bytes. TFLite parses a program without checking it, and a damaged
one may end the process. Files of older versions are the policy alone.
"""

import hashlib
import os
import struct
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from gymnasium import spaces

from agents.struct_types import prepared
from pipeline.environments.lanes.spaces import leaves_of, specs_of
from pipeline.experiment.config import UsageError
from pipeline.experiment.sections import Experiment
from pipeline.messages.contents import Array

_SCALES_APART = 2.0
"""Bounds of numbers that differ by this factor are of another scale: those from data move a little with it."""


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

    @classmethod
    def of(cls, observation: spaces.Space[Any], action: spaces.Space[Any]) -> "MadeFor":
        """What a policy for an environment with these spaces is made for."""
        specs = specs_of(observation, action, masked=False)
        scales = {name: _scale(space) for name, space, _ in leaves_of(observation, "", lambda batch: batch)}
        return cls({name: Leaf(*spec[:3], scales[name]) for name, spec in specs.leaves().items()}, specs.num_actions)

    def refuse(self, present: "MadeFor") -> None:
        """Refuses an environment that the policy was not made for.

        Raises:
          UsageError: says what is not as it was.
        """
        if self.num_actions != present.num_actions:
            raise UsageError(f"{_OTHER} {self.num_actions} actions, and has {present.num_actions} now: {_REMEDY}")
        if set(self.leaves) != set(present.leaves):
            raise UsageError(
                f"{_OTHER} observations of {', '.join(map(repr, self.leaves))}, and gives "
                f"{', '.join(map(repr, present.leaves))} now: {_REMEDY}"
            )
        for name, leaf in self.leaves.items():
            now, what = present.leaves[name], f"observations {name}".strip()
            for field in ("shape", "dtype", "maximum"):
                was, is_now = getattr(leaf, field), getattr(now, field)
                if was != is_now:
                    raise UsageError(f"{_OTHER} {what} of {field} {was}, and gives {is_now} now: {_REMEDY}")
            low, high = sorted((leaf.scale, now.scale))
            if low and high >= _SCALES_APART * low:
                raise UsageError(
                    f"{_OTHER} {what} of up to {leaf.scale:g}, and gives up to {now.scale:g} now: {_REMEDY}"
                )


_OTHER = "the environment does not fit the policy: it had"
_REMEDY = "put it back as it was, or train on it as it is"


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
    judged_by: str = ""
    """Settings that the mean return depends on; empty where none are known."""


def judged_by(experiment: Experiment) -> str:
    """What mean returns depend on, as text: those of other settings are not compared with each other."""
    settings = msgspec.to_builtins(experiment.evaluation) if experiment.evaluates else {}
    for unrelated in ("every_steps", "images"):
        settings.pop(unrelated, None)
    return msgspec.json.encode(settings, order="sorted").decode()


def save(policy: Policy, folder: Path) -> None:
    """Writes `folder/policy.msgpack`; a reader sees the old file or the new one, never a part."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / "policy.msgpack.part"
    data = msgspec.msgpack.encode(policy)
    with part.open("wb") as file:
        file.write(msgspec.msgpack.encode((_checksum(data), data)))
        file.flush()
        os.fsync(file.fileno())
    part.replace(folder / "policy.msgpack")


def load(folder: Path) -> Policy:
    """The policy in a folder.

    Raises:
      UsageError: there is none, or it cannot be read.
    """
    path = folder / "policy.msgpack"
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"no policy in {folder}: the run has not finished its first evaluation") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    try:
        found: tuple[bytes, bytes] | Policy
        found = msgspec.msgpack.decode(content, type=tuple[bytes, bytes] | prepared(Policy))
        if isinstance(found, tuple):
            checksum, data = found
            if checksum != _checksum(data):
                raise UsageError(f"{path} is damaged: its checksum is another. {_ADVICE}")
            policy: Policy = msgspec.msgpack.decode(data, type=prepared(Policy))
            return policy
    except (msgspec.MsgspecError, RecursionError) as error:
        raise UsageError(f"{path} is damaged, or no policy of this version: {error}. {_ADVICE}") from None
    if obstacle := _damage(found):
        raise UsageError(f"{path} is damaged: {obstacle}. {_ADVICE}")
    return found


_ADVICE = "Take the run's other policy, or let the run go on: its next evaluation writes a new one"
_TFLITE = b"TFL3"


def _checksum(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _damage(policy: Policy) -> str:
    """What is wrong with a policy without a checksum, as far as it shows; empty if nothing does."""
    program = policy.program
    if program and not (program[4:8] == _TFLITE and 8 <= struct.unpack_from("<I", program)[0] < len(program)):
        return "it holds no TFLite program"
    try:
        for weight in policy.weights:
            weight.numpy()
    except (ValueError, TypeError) as error:
        return str(error)
    return ""
