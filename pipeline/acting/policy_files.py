"""Policies on disk: a program, its weights and where they come from, in one file of typed msgpack (no pickle)."""

import os
from pathlib import Path

import msgspec

from agents.struct_types import prepared
from pipeline.experiment.config import UsageError
from pipeline.messages.contents import Array


class Policy(msgspec.Struct, frozen=True):
    """A greedy policy; it acts without TensorFlow unless its program is empty."""

    program: bytes
    weights: tuple[Array, ...]
    environment_steps: int
    gradient_steps: int
    mean_return: float


def save(policy: Policy, folder: Path) -> None:
    """Writes `folder/policy.msgpack`; a reader sees the old file or the new one, never a part."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / "policy.msgpack.part"
    with part.open("wb") as file:
        file.write(msgspec.msgpack.encode(policy))
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
        return msgspec.msgpack.decode(path.read_bytes(), type=prepared(Policy))
    except FileNotFoundError:
        raise UsageError(f"no policy in {folder}: the run has not finished its first evaluation") from None
    except msgspec.MsgspecError as error:
        raise UsageError(f"{path} is not a policy of this version: {error}") from None
