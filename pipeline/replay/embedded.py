"""A replay whose server is in the learner's process."""

from collections.abc import Sequence
from pathlib import Path

from agents import Specs
from pipeline.experiment.sections import Experiment
from pipeline.records.counters import NOTHING, Seen, Tally
from pipeline.replay.client import TableClient
from pipeline.replay.server import ReplayServer


class EmbeddedReplay(TableClient):
    """A server and the learner's client of it, in one process: samples are handed over without gRPC.

    Args:
      experiment: sizes, ratio and window.
      specs: of the environment.
      port: to listen on.
      folder: for Reverb's own checkpoints; it must hold nothing else.
      restore_from: a Reverb checkpoint of this run to go on from, or None.
      blocking: hold collectors and learner to the ratio; see `ReplayServer`.
      dataset: a Reverb checkpoint of another run to draw from; priorities start anew.
      before: items that the checkpoint's queue had taken and given before it was last emptied.

    Raises:
      UsageError: the port is in use, or is open though `replay.private` demands that it is not.
      BadCheckpoint: the checkpoint cannot be restored.
    """

    warning = ""  # no server of it is away

    def __init__(
        self,
        experiment: Experiment,
        specs: Specs,
        port: int,
        folder: Path,
        restore_from: Path | None = None,
        blocking: bool = True,
        dataset: Path | None = None,
        before: tuple[int, int] = (0, 0),
    ) -> None:
        self.server = ReplayServer(experiment, specs, port, folder, restore_from, blocking, dataset)
        stored = self.server.restored
        self.restored = Tally(stored.inserted + before[0], stored.sampled + before[1], stored.present)
        """What the run had counted when the restored checkpoint was written."""
        super().__init__(
            experiment, specs, self.server.address, self.restored if experiment.agent.on_policy else NOTHING
        )
        self.publication_addresses = sorted({self.server.address, self.server.weights_address})

    def seen(self) -> Sequence[Seen]:
        """See `Replay.seen`: there is no server in another process."""
        return ()

    def refresh(self) -> None:
        """See `Replay.refresh`: what is asked for is of now."""

    def save(self) -> Path:
        """See `Replay.save`."""
        return self.server.checkpoint()

    def stop(self) -> None:
        """See `Replay.stop`."""
        self.server.stop()
