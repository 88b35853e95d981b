"""What is known of a server in another process is of the process that is there, and not of the one before."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from waiting import SECONDS

from agents import Specs
from pipeline.experiment.sections import Experiment
from pipeline.messages.ports import free_port
from pipeline.replay.shards.separate_server import SeparateServer
from pipeline.replay.shards.watcher import Watch

UNSAID_SECONDS = 1.5
"""Several questions."""


def answers(watch: Watch, seconds: float = SECONDS) -> bool:
    return watch.wait(time.monotonic() + seconds)


def test_a_server_that_was_restored_is_not_taken_for_the_one_before(
    make_experiment: Callable[..., Experiment], counting_specs: Specs, tmp_path: Path
) -> None:
    experiment = make_experiment("replay.shards=1")
    seen_early: list[Any] = []

    class Watched(SeparateServer):
        def forget_messages(self) -> None:
            """The first thing that it does once it listens."""
            watch = Watch(self.address, self.layout.table)
            seen_early.append(watch.seen if answers(watch, UNSAID_SECONDS) else None)
            super().forget_messages()

    first = Watched(experiment, counting_specs, free_port(), tmp_path / "first", blocking=False)
    watch = Watch(first.address, first.layout.table)
    assert answers(watch)
    identity = watch.identity
    source = first.checkpoint()
    first.stop()
    second = Watched(experiment, counting_specs, free_port(), tmp_path / "second", source, blocking=False)
    watch = Watch(second.address, second.layout.table)
    assert answers(watch)
    assert watch.identity not in ("", identity)
    assert seen_early == [None, None]
    second.stop()


def test_a_server_answers_while_it_writes_a_checkpoint(
    make_experiment: Callable[..., Experiment], counting_specs: Specs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = make_experiment("replay.shards=1")
    server = SeparateServer(experiment, counting_specs, free_port(), tmp_path / "replay", blocking=False)
    watch = Watch(server.address, server.layout.table)
    assert answers(watch)
    identity, writes, may_end = watch.identity, threading.Event(), threading.Event()
    whole = server.client.checkpoint

    def slow() -> str:
        writes.set()
        assert may_end.wait(SECONDS)
        return whole()

    monkeypatch.setattr(server.client, "checkpoint", slow)
    thread = threading.Thread(target=server.checkpoint)
    thread.start()
    assert writes.wait(SECONDS)
    for _ in range(3):
        assert answers(watch)
    assert watch.identity == identity
    may_end.set()
    thread.join(SECONDS)
    assert answers(watch)
    assert watch.seen is not None
    assert not watch.seen.served.is_stored
    server.stop()
