"""Policies on disk: a program, its weights and where they come from, in one file of typed msgpack (no pickle).

The file is a pair: a checksum, and the policy's own bytes. TFLite parses a program without checking it, and a damaged
one may end the process. Files of older versions are the policy alone.
"""

import hashlib
import os
import struct
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
