"""Reads policies from disk, and compares them with the environment that they are to act in. No TensorFlow."""

import logging
import math
import struct
from pathlib import Path

import msgspec

from agents.struct_types import prepared
from pipeline.acting.policy_files import MadeFor, Policy, checksum_of
from pipeline.experiment.config import UsageError

log = logging.getLogger(__name__)

_SCALES_APART = 2.0
"""Bounds of numbers that differ by this factor are of another scale: those from data move a little with it."""
_OTHER = "the environment does not fit the policy: it had"
_REMEDY = "put it back as it was, or train on it as it is"


def refuse_other(made_for: MadeFor, present: MadeFor) -> None:
    """Refuses an environment that a policy was not made for.

    Args:
      made_for: the policy's.
      present: what a policy for the environment of now is made for.

    Raises:
      UsageError: says what is not as it was.
    """
    if (was := _actions(made_for)) != (now_has := _actions(present)):
        raise UsageError(f"{_OTHER} {was}, and has {now_has} now: {_REMEDY}")
    if set(made_for.leaves) != set(present.leaves):
        raise UsageError(
            f"{_OTHER} observations of {', '.join(map(repr, made_for.leaves))}, and gives "
            f"{', '.join(map(repr, present.leaves))} now: {_REMEDY}"
        )
    for name, leaf in made_for.leaves.items():
        now, what = present.leaves[name], f"observations {name}".strip()
        for field in ("shape", "dtype", "maximum"):
            was, is_now = getattr(leaf, field), getattr(now, field)
            if was != is_now:
                raise UsageError(f"{_OTHER} {what} of {field} {was}, and gives {is_now} now: {_REMEDY}")
        low, high = sorted((leaf.scale, now.scale))
        if low and high >= _SCALES_APART * low:
            raise UsageError(f"{_OTHER} {what} of up to {leaf.scale:g}, and gives up to {now.scale:g} now: {_REMEDY}")


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
            if checksum != checksum_of(data):
                raise UsageError(f"{path} is damaged: its checksum is another. {_ADVICE}")
            policy: Policy = msgspec.msgpack.decode(data, type=prepared(Policy))
            return policy
    except (msgspec.MsgspecError, RecursionError) as error:
        raise UsageError(f"{path} is damaged, or no policy of this version: {error}. {_ADVICE}") from None
    if obstacle := _damage(found):
        raise UsageError(f"{path} is damaged: {obstacle}. {_ADVICE}")
    return found


def score_of(folder: Path, settings: str) -> float:
    """What the policy in a folder was judged by, if that was done as policies are judged now; else -inf, and a warning.

    Args:
      folder: of the best policy.
      settings: of evaluations now, see `policy_files.judged_by`.
    """
    try:
        best = load(folder)
    except UsageError as error:
        log.warning("policies/best begins anew: %s", error)
        return -math.inf
    if best.judged_by not in ("", settings):
        log.warning("policies/best begins anew: the one that there is was judged by other evaluations")
        return -math.inf
    return best.mean_return if best.score is None else best.score


_ADVICE = "Take the run's other policy, or let the run go on: its next evaluation writes a new one"
_TFLITE = b"TFL3"


def _actions(made_for: MadeFor) -> str:
    sizes = made_for.action_sizes
    return f"{made_for.num_actions} actions" if not sizes else f"actions of the dimensions {list(sizes)}"


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
