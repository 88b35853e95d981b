"""Goes on from the newest checkpoint that can be used."""

import logging
from collections.abc import Callable
from pathlib import Path

from pipeline.experiment.config import UsageError
from pipeline.records import checkpoint
from pipeline.records.checkpoint import BadCheckpoint, Checkpoint

log = logging.getLogger(__name__)


def restore(
    folder: Path,
    use: Callable[[Checkpoint], None],
    say: Callable[[str], None] = log.warning,
    pass_over: int = 0,
) -> Checkpoint | None:
    """Goes on from the newest checkpoint that can be used.

    Args:
      folder: of the run's checkpoints.
      use: takes a whole checkpoint; raises `BadCheckpoint` if it turns out not to be of use.
      say: takes a sentence about each that is skipped.
      pass_over: whole checkpoints to leave out, the newest first, as long as there is one before them: learners that
        went on from them failed, so that what they hold may be what ends them.

    Returns:
      The checkpoint that was used; None if there is none at all.

    Raises:
      UsageError: there are checkpoints, and none of them can be used.
    """
    reasons = []

    def skip(sentence: str) -> None:
        reasons.append(sentence)
        say(sentence)

    candidates = checkpoint.good(folder, skip)
    if pass_over:
        whole = list(candidates)
        left_out = max(0, min(pass_over, len(whole) - 1))
        for found in whole[:left_out]:
            say(f"checkpoint {found.path} is passed over: a learner that went on from it failed at once")
        candidates = iter(whole[left_out:])
    for found in candidates:
        try:
            use(found)
        except BadCheckpoint as bad:
            skip(f"checkpoint {found.path} is skipped: {bad}")
            continue
        log.info("resumed from %s", found.path)
        return found
    if reasons:
        raise UsageError(
            f"no checkpoint in {folder} can be used; remove that folder to start the run anew. The newest: {reasons[0]}"
        )
    return None
