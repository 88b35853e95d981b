"""What the learner's process needs of a replay, wherever its servers are."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.records.counters import Seen, Tally
from pipeline.replay.client import RefusedDraws
from pipeline.replay.sampling import Sample


class Replay(Protocol):
    """A replay: in the learner's process (`EmbeddedReplay`), or in others (`RemoteReplay`, `ShardedReplay`)."""

    address: str
    """Of the server that frames go to; of several, the first."""
    addresses: Sequence[str]
    """Of all servers that reports come to."""
    publication_addresses: Sequence[str]
    """Of all that publications go to."""
    items_per_call: int
    """Items that are drawn for one call of the learner."""
    skipped_priorities: int
    """Of items whose server was away when they came."""
    refused: RefusedDraws

    @property
    def warning(self) -> str:
        """Which servers are away, and what that means; empty while all answer."""

    def samples(self) -> Iterator[Sample]:
        """What the learner draws, without end; waits while there is nothing to draw."""

    def give_priorities(self, sample: Sample, priorities: NDArray[np.float32]) -> None:
        """Gives the items drawn for a call the priorities of their windows; items that have left are ignored.

        Args:
          sample: what was drawn.
          priorities: float32 [K, B], not negative. An item takes the mean of its windows'.
        """

    def tally(self) -> Tally:
        """Items that the experience tables have taken and given since the run began, and those that they have."""

    def size(self) -> int:
        """Items that they have."""

    def seen(self) -> Sequence[Seen]:
        """Of servers in processes of their own: what they were when they last answered."""

    def refresh(self) -> None:
        """Has `tally` and `seen` be of now, if the servers answer."""

    def waits_for_collectors(self) -> bool:
        """Whether the learner can have no more before collectors insert; if not, a table has failed."""

    def explain_stall(self) -> str:
        """Who waits for whom, and what to change, in words."""

    def save(self) -> Path | None:
        """Writes the contents and returns their folder; None of servers that do so themselves.

        Raises:
          OSError: they could not be written.
        """

    def stop(self) -> None:
        """Ends the connections, and the server where it is in this process."""
