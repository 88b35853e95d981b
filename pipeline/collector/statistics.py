"""Counts what a collector has done, and writes its reports."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import psutil
from numpy.typing import NDArray

from pipeline.environments.lanes.lane_environment import EpisodeEnds
from pipeline.messages.contents import CollectorReport, Counts
from pipeline.replay.item_book import ItemBook

if TYPE_CHECKING:
    from pipeline.environments.lanes.lane_environment import FaultCounts
    from pipeline.messages.traffic import Traffic


class CollectorStatistics:
    """What one collector has done since its start, and the episodes that ended since its last report.

    Args:
      index: which of the run's collectors it is, from 0.
      process: identifies its process in reports.
      lanes: of the collector.
      traffic: of its process; None counts no bytes.
    """

    def __init__(self, index: int, process: str, lanes: int, traffic: "Traffic | None" = None) -> None:
        self._index, self._process, self._traffic = index, process, traffic
        self._process_info = psutil.Process()
        self._bytes_sent = self._bytes_received = 0
        self.environment_steps = 0
        self.shielded_steps = 0
        self.epsilon = 1.0
        self.blocked_seconds = 0.0
        """That the collector has waited for the rate limiter or for new weights."""
        self._episodes = 0
        self._returns: list[float] = []
        self._lengths: list[int] = []
        self._info: dict[str, list[float]] = {}
        self._reward_sizes, self._largest_rewards = np.zeros((2, lanes), np.float32)

    def add_step(self, environment_steps: int, rewards: NDArray[np.float32], ends: EpisodeEnds) -> None:
        """Takes one vector step.

        Args:
          environment_steps: how many lanes took one.
          rewards: float32 [lanes], as the frames have them.
          ends: the episodes that it ended.
        """
        self.environment_steps += environment_steps
        np.abs(rewards, out=self._reward_sizes)
        np.maximum(self._largest_rewards, self._reward_sizes, out=self._largest_rewards)
        if ends.returns:
            self._episodes += len(ends.returns)
            self._returns += ends.returns
            self._lengths += ends.lengths

    def add_infos(self, infos: Iterable[Mapping[str, float]]) -> None:
        """Takes numbers of the user's own, of each episode that ended."""
        for numbers in infos:
            for key, number in numbers.items():
                self._info.setdefault(key, []).append(number)

    def counts(self, book: ItemBook, faults: "FaultCounts") -> Counts:
        """What the collector has collected so far.

        Args:
          book: of its writer.
          faults: of its environment.
        """
        return Counts(
            environment_steps=self.environment_steps,
            episodes=self._episodes,
            begun=book.begun_windows,
            windows=book.confirmed_windows,
            items=book.confirmed_items,
            shielded_steps=self.shielded_steps,
            dropped_episodes=faults.dropped_episodes,
            bytes_sent=self._bytes_sent,
            bytes_received=self._bytes_received,
        )

    def report(
        self,
        book: ItemBook,
        faults: "FaultCounts",
        weights_age: int,
        weights_seconds: float,
        last: bool,
        fault: str,
    ) -> CollectorReport:
        """The counts so far, and the episodes that ended since the report before; forgets those episodes.

        Args:
          book: of the collector's writer.
          faults: of its environment.
          weights_age: gradient steps that the weights that act lag behind the newest.
          weights_seconds: for which they have acted.
          last: the collector writes no other report.
          fault: that ended the collector; empty without one.
        """
        if self._traffic is not None:
            self._bytes_sent, self._bytes_received = self._traffic.read()
        returns, lengths, counts = tuple(self._returns), tuple(self._lengths), self.counts(book, faults)
        self._returns.clear()
        self._lengths.clear()
        info, self._info = {key: tuple(numbers) for key, numbers in self._info.items()}, {}
        return CollectorReport(
            **msgspec.structs.asdict(counts),
            index=self._index,
            process=self._process,
            returns=returns,
            lengths=lengths,
            epsilon=self.epsilon,
            weights_age=weights_age,
            weights_seconds=weights_seconds,
            blocked_seconds=self.blocked_seconds,
            resident_bytes=self._process_info.memory_info().rss,
            newest_fault=faults.newest,
            largest_reward=float(self._largest_rewards.max()),
            info=info,
            last=last,
            fault=fault,
        )
