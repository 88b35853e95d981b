"""A replay's server in a process of its own, from its start to its last checkpoint."""

import logging
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from agents import Specs
from pipeline.experiment import config
from pipeline.experiment.run_directory import RunDirectory
from pipeline.experiment.sections import Experiment
from pipeline.messages.contents import INTERRUPTED
from pipeline.messages.traffic import Arrivals
from pipeline.messages.variables_reader import VariablesReader
from pipeline.records import checkpoint_writer
from pipeline.records.checkpoint import Checkpoint, restore
from pipeline.records.counters import Counters
from pipeline.records.recorder import Recorder
from pipeline.replay.shards.separate_server import SeparateServer
from pipeline.roles.relay_role import Relay

if TYPE_CHECKING:
    from pipeline.monitoring.health import Number, Vitals

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.1
_RETRY_SECONDS = 30.0
_READ_SECONDS = 0.05
_ANSWER_SECONDS = 2
_TOLD_SECONDS = 2.0
"""Between two counts of the bytes that have come."""


def run_replay(
    experiment: Experiment,
    specs: Specs,
    run: RunDirectory,
    shard: int,
    port: int,
    interrupted: threading.Event,
    recorder: Recorder,
    resume: bool,
    vitals: "Vitals",
) -> int:
    """Serves until the learner says that it has left, writing checkpoints meanwhile; returns the exit code.

    Args:
      experiment: the run.
      specs: of its environment.
      run: a directory of this server's own.
      shard: its number, from 0.
      port: to listen on.
      interrupted: ends it, after a last checkpoint.
      recorder: says that it is alive.
      resume: go on from the newest checkpoint of the directory that is whole, if there is one.
      vitals: what it shows of itself, to whoever asks.

    Raises:
      UsageError: the port is in use, or no checkpoint can be used though there are some.
    """
    servers: list[SeparateServer] = []

    def start(found: Checkpoint | None) -> None:
        source = found.replay if found else None
        folder = checkpoint_writer.reverb_folder(run.checkpoints)
        of_table = experiment.collected if experiment.mixes else experiment  # the rest of a batch is of a dataset
        servers.append(SeparateServer(of_table, specs, port, folder, source, shard=shard))

    if not (resume and restore(run.checkpoints, start)):
        start(None)
    server = servers[0]
    vitals.numbers = lambda: _numbers(server)
    log.info("shard %d of the replay listens on port %d", shard, port)
    reader = VariablesReader(server.address, _READ_SECONDS)
    handing_on = Relay(reader, server.weights_address) if experiment.replay.weights_port else None
    saver = _Saver(experiment, run, server)
    arrivals, told_at = Arrivals(port), 0.0
    while not interrupted.is_set():
        recorder.beat()
        if (newest := reader.newest) is not None and newest.ended:
            break
        if handing_on is not None:
            handing_on.tend()
        saver.tend()
        if time.monotonic() - told_at >= _TOLD_SECONDS:
            arrivals.read()
            server.say_received(dict(arrivals.received))
            told_at = time.monotonic()
        interrupted.wait(_POLL_SECONDS if handing_on is None else _READ_SECONDS)
    newest = reader.newest
    if newest is None or not newest.ended:
        from pipeline.replay.shards.severing import sever

        log.info("takes nothing more: the next start goes on from the checkpoint that is written now")
        sever(port)
    server.forget_messages()  # who finds them after a restart would leave at once
    saver.finish(recorder)
    return newest.exit_code if newest is not None else INTERRUPTED


def _numbers(server: SeparateServer) -> "list[Number]":
    from pipeline.monitoring import prometheus

    info = server.client.server_info(timeout=_ANSWER_SECONDS)[server.layout.table]
    return prometheus.of_replay(info, server.experiment.windows_per_item)


class _Saver:
    """Writes the server's checkpoints in a thread."""

    def __init__(self, experiment: Experiment, run: RunDirectory, server: SeparateServer) -> None:
        self._every, self._keep = experiment.checkpoint.every_seconds, experiment.checkpoint.keep
        self._config = config.dump(experiment).encode()
        self._run, self._server = run, server
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[checkpoint_writer.Written] | None = None
        self._due = time.monotonic() + self._every

    def tend(self) -> None:
        """Starts a checkpoint if one is due, and says how the last one ended."""
        if self._writing is not None:
            if self._writing.done():
                self._end()
        elif time.monotonic() >= self._due:
            self._start()

    def finish(self, recorder: Recorder) -> None:
        """Writes the last one."""
        self._await(recorder)  # one that is under way
        self._start()
        self._await(recorder)

    def _await(self, recorder: Recorder) -> None:
        while self._writing is not None:
            recorder.beat()
            time.sleep(_POLL_SECONDS)
            if self._writing.done():
                self._end()

    def _start(self) -> None:
        def write() -> checkpoint_writer.Written:
            return checkpoint_writer.write(
                self._run.checkpoints, self._config, Counters(), {}, self._server.checkpoint, self._keep
            )

        self._writing = self._thread.submit(write)

    def _end(self) -> None:
        assert self._writing is not None
        writing, self._writing = self._writing, None
        try:
            log.info("checkpoint %s", writing.result().path)
            self._due = time.monotonic() + self._every
        except OSError as error:
            log.error("a checkpoint could not be written: %s; the one before it stays", error)
            self._due = time.monotonic() + min(self._every, _RETRY_SECONDS)
