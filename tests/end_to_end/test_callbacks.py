"""Callbacks of real runs: alike with every launcher, in threads, with an event loop running, and call after call."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from small_runs import ENDLESS, processes_of
from tiers import tiered

import pipeline
from pipeline.launchers import Cluster

EXPERIMENT = pipeline.load("cartpole", ENDLESS)


class Recording(pipeline.Callback):
    """Notes which method is called, in which thread."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.threads: set[int] = set()
        self.evaluations: list[pipeline.Evaluation] = []

    def _note(self, event: str) -> None:
        self.threads.add(threading.get_ident())
        self.events.append(event)

    def on_start(self, started: pipeline.Started) -> None:
        assert started.run.is_running
        self._note("start")

    def on_status(self, status: pipeline.Status) -> None:
        self._note("status")

    def on_evaluation(self, evaluation: pipeline.Evaluation) -> None:
        self.evaluations.append(evaluation)
        self._note("evaluation")

    def on_checkpoint(self, checkpoint: pipeline.CheckpointInfo) -> None:
        assert checkpoint.path.is_dir()
        self._note("checkpoint")

    def on_end(self, summary: pipeline.Summary) -> None:
        self._note("end")


class Failing(pipeline.Callback):
    def on_evaluation(self, evaluation: pipeline.Evaluation) -> None:
        raise LookupError("of the callback's own")


def arguments_of(launcher: str) -> dict[str, Any]:
    if launcher == "ray":
        pytest.importorskip("ray")
        return {"launcher": launcher, "cluster": Cluster("local")}
    return {"launcher": launcher}


@pytest.mark.parametrize("launcher", tiered(("inline", "local", "ray"), ("inline",)))
def test_a_run_tells_stops_fails_and_goes_on(launcher: str, tmp_path: Path) -> None:
    run_dir, recording = tmp_path / "run", Recording()
    callbacks = [recording, pipeline.StopAfter(evaluations=2), pipeline.CsvLogger()]
    summary = pipeline.train(EXPERIMENT, run_dir, callbacks=callbacks, **arguments_of(launcher))
    assert (summary.stop_reason, summary.message) == ("callback", "StopAfter.on_evaluation: after 2 evaluations")
    run = pipeline.Run(run_dir)
    assert run.summary is not None
    assert run.summary["stop_reason"] == "callback"
    assert recording.events[0] == "start"
    assert recording.events[-1] == "end"
    assert {"status", "evaluation", "checkpoint"} <= set(recording.events)
    assert recording.threads == {threading.get_ident()}
    assert summary.evaluations == len(recording.evaluations)
    steps = sorted({evaluation.environment_steps for evaluation in recording.evaluations})
    assert run.curve().x.tolist() == steps, "of two evaluations at one step the later counts"
    assert recording.evaluations[-1].gradient_steps == summary.gradient_steps, "the last weights are evaluated"
    assert recording.evaluations[-1].mean_return == pytest.approx(run.curve().y[-1])
    assert (run_dir / "progress.csv").is_file()
    # It goes on from there; what a callback raises comes after another checkpoint.
    checkpoints, again = run.checkpoints, Recording()
    with pytest.raises(LookupError, match="of the callback's own"):
        pipeline.train(EXPERIMENT, run_dir, resume=True, callbacks=[again, Failing()], **arguments_of(launcher))
    assert run.summary["stop_reason"] == "failed"
    assert run.summary["message"].startswith("Failing.on_evaluation raised LookupError: of the callback's own")
    assert run.checkpoints[-1].gradient_steps > checkpoints[-1].gradient_steps
    assert again.events[-1] == "end"
    assert not run.is_running
    assert processes_of(run_dir) == []


@pytest.mark.slow
def test_runs_in_threads_beside_each_other_and_with_an_event_loop(tmp_path: Path) -> None:
    found: dict[str, pipeline.Summary] = {}

    def train(name: str) -> None:
        found[name] = pipeline.train(EXPERIMENT, tmp_path / name, callbacks=[pipeline.StopAfter(evaluations=1)])

    async def with_a_loop() -> None:
        train("in a loop")

    threads = [threading.Thread(target=train, args=(name,)) for name in ("one", "another")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asyncio.run(with_a_loop())
    assert {name: summary.stop_reason for name, summary in found.items()} == dict.fromkeys(
        ("one", "another", "in a loop"), "callback"
    )


def test_mistakes_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(pipeline.UsageError, match="give an instance"):
        pipeline.train(EXPERIMENT, tmp_path / "run", callbacks=[pipeline.CsvLogger])  # type: ignore[list-item]
    assert list(tmp_path.iterdir()) == []
