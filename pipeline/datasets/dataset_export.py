"""Exports the replay of a run as a dataset."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from pipeline import environments
from pipeline.datasets import datasets, minari_format, stored_replay, tfrecord_format
from pipeline.datasets.datasets import Selection
from pipeline.datasets.minari_format import Spaces
from pipeline.datasets.replay_summary import rows
from pipeline.datasets.stored_replay import StoredReplay
from pipeline.experiment.config import UsageError
from pipeline.runtime.output_folder import refuse_taken, write_whole


def export(run_dir: Path, out: Path, form: str, whole_episodes: bool) -> str:
    """Writes a dataset and returns what it has, in words.

    Args:
      run_dir: of the run.
      out: folder to make.
      form: "minari" or "tfrecord".
      whole_episodes: leave out episodes of which not every step is stored; else every stored transition is written.

    Raises:
      UsageError: there is nothing to export, or it cannot be written.
    """
    out = out.resolve()  # Minari puts a relative one before itself
    refuse_taken(out)
    if form == "minari":
        minari_format.package()
    stored = stored_replay.read(run_dir)
    if paid_by := stored.experiment.exploration.paid_by:
        raise UsageError(f"{run_dir}: its rewards hold the bonus of {paid_by}: export a run without")
    selection = datasets.select(stored.lanes, whole_episodes)
    if not selection.taken:
        reasons = ", ".join(f"{count} {reason}" for reason, (count, _) in selection.left_out.items())
        raise UsageError(f"{run_dir} has no whole episode stored ({reasons or 'nothing at all'}): try --transitions")
    config = stored.experiment.environment

    def write(part: Path) -> None:
        if form == "minari":
            named = {
                "dataset_id": minari_format.identity(out),
                "algorithm_name": stored.experiment.agent.kind,
                "description": f"What a run of {stored.experiment.agent.kind} collected and its replay held.",
            }
            minari_format.write(part, stored.layout, selection, _spaces(stored), config, named)
        else:
            environment = msgspec.to_builtins(config)
            tfrecord_format.write(part, stored.layout, selection, whole_episodes, environment)

    write_whole(out, write)
    title = f"{out}: {len(selection.taken):,} {'episodes' if whole_episodes else 'episodes and parts of them'}"
    return "\n".join(rows(title, comparison_with_ledger(stored, selection)))


def comparison_with_ledger(stored: StoredReplay, selection: Selection) -> Sequence[tuple[str, str]]:
    """Compares an export with the ledger: transitions written or left out, and frames in which no step was taken."""
    left_out = [
        (f"left out: {reason}", f"{steps:,} of {episodes:,} episodes")
        for reason, (episodes, steps) in selection.left_out.items()
    ]
    return [
        ("transitions written", f"{selection.steps:,}"),
        *left_out,
        ("last frames of episodes, in which no step was taken", f"{stored.ends:,}"),
        ("windows stored, as the run's ledger counts", f"{stored.windows:,}"),
    ]


def _spaces(stored: StoredReplay) -> Spaces:
    environment = environments.make(stored.experiment.environment, 1)
    try:
        return Spaces(environment.observation_space, environment.vector.single_action_space)
    finally:
        environment.close()
