"""Starts a replay that holds a dataset: of another run's checkpoint or, written episode by episode, of files."""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from agents import Specs
from pipeline.datasets import offline
from pipeline.datasets.datasets import Dataset
from pipeline.experiment.config import UsageError
from pipeline.experiment.run_directory import RunDirectory
from pipeline.experiment.sections import Experiment
from pipeline.records.checkpoint import Checkpoint
from pipeline.replay.embedded import EmbeddedReplay
from pipeline.replay.frames import FrameLayout
from pipeline.replay.writer import FrameWriter

_STILL_SECONDS = 60.0
"""How long no item may be confirmed before the replay counts as gone."""


class Filled(NamedTuple):
    """A replay that holds a dataset."""

    replay: EmbeddedReplay
    windows: int
    returns: dict[str, float]
    """See `describe`; of its whole episodes."""


def describe(returns: Sequence[float]) -> dict[str, float]:
    """How good those were who made a dataset: the mean of its episodes' returns and of the best tenth, and how many.

    Args:
      returns: of its episodes; without any there is nothing to tell.
    """
    ranked = sorted(returns, reverse=True)
    best = ranked[: max(1, len(ranked) // 10)]
    if not ranked:
        return {}
    return {"mean": statistics.fmean(ranked), "best_tenth": statistics.fmean(best), "episodes": float(len(ranked))}


def filled(experiment: Experiment, specs: Specs, port: int, folder: Path, blocking: bool) -> Filled:
    """A replay in this process with the dataset of an offline run.

    Args:
      experiment: with the sizes that `offline.adopt` gave it.
      specs: of its environment.
      port: to listen on.
      folder: for Reverb's own checkpoints; it must hold nothing else.
      blocking: see `ReplayServer`.

    Raises:
      UsageError: the dataset has gone, or cannot be learned from.
      TimeoutError: the replay takes nothing.
    """
    dataset = offline.dataset(experiment)
    if isinstance(dataset, Checkpoint):
        from pipeline.datasets import stored_replay

        source = RunDirectory(Path(experiment.offline.dataset)).experiment()
        returns = stored_replay.returns(dataset, source, specs)  # before a server answers, which others wait for
        replay = EmbeddedReplay(experiment, specs, port, folder, blocking=blocking, dataset=dataset.replay)
        present = min(replay.size() * experiment.windows_per_item, dataset.counters.windows)  # the last have padding
        return Filled(replay, present, describe(returns))
    replay = EmbeddedReplay(experiment, specs, port, folder, blocking=blocking)
    return Filled(replay, *fill(replay.address, experiment, specs, dataset))


def fill(address: str, experiment: Experiment, specs: Specs, dataset: Dataset) -> tuple[int, dict[str, float]]:
    """Writes every episode, one after the other.

    Returns:
      How many windows the replay has of them: one begins in every frame, also in an episode's last, which nothing is
      learned from. And the episodes' returns, by `describe`: none if the dataset holds pieces of episodes.

    Args:
      address: of the replay's server.
      experiment: with the sizes that `offline.adopt` gave it.
      specs: of its environment.
      dataset: what to write.

    Raises:
      UsageError: the dataset cannot be learned from.
      TimeoutError: the replay takes nothing.
    """
    layout = FrameLayout.of(experiment, specs)
    writer = FrameWriter.of(experiment, layout, address)
    progress, returns = _Progress(writer), []
    try:
        for episode in dataset.read(layout):
            returns.append(float(episode["reward"].sum(dtype=np.float64)))
            for step in range(len(episode)):
                writer.append(episode[step : step + 1])
                writer.confirm(progress.goes_on)
        while writer.book.missing:
            writer.pad(layout.padding(1))
        writer.confirm(progress.goes_on, everything=True)
    finally:
        writer.close()
    if writer.book.confirmed_windows > experiment.replay.capacity:
        raise UsageError(
            f"offline.dataset={experiment.offline.dataset!r} has more windows than it says: export it anew"
        )
    return writer.book.confirmed_windows, describe(returns if dataset.has_whole_episodes else ())


class _Progress:
    def __init__(self, writer: FrameWriter) -> None:
        self._writer, self._confirmed, self._at = writer, -1, 0.0

    def goes_on(self) -> bool:
        """True while the replay goes on confirming items.

        Raises:
          TimeoutError: it has confirmed none for `_STILL_SECONDS`.
        """
        if self._writer.book.confirmed_items != self._confirmed:
            self._confirmed, self._at = self._writer.book.confirmed_items, time.monotonic()
        elif time.monotonic() - self._at > _STILL_SECONDS:
            raise TimeoutError(f"the replay has taken nothing of the dataset for {_STILL_SECONDS:.0f} s")
        return True
