"""Callbacks by themselves, and what tells them of a run, held against a run's directory that is written by hand."""

import csv
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import pipeline
from pipeline.callbacks.callback import checked
from pipeline.callbacks.notifier import Notifier
from pipeline.callbacks.progress_bar import Shown, as_html, share_used
from pipeline.experiment.run_directory import RunDirectory, write_json
from pipeline.messages.contents import Array, Evaluation
from pipeline.records import checkpoint_writer
from pipeline.records.counters import Counters
from pipeline.records.ledger import Ledger
from pipeline.records.results import Status, Summary

EXPERIMENT = pipeline.load("cartpole", stop={"environment_steps": 1_000})


class Recording(pipeline.Callback):
    """Notes what it is told, and answers what it is given."""

    def __init__(self, **answers: Any) -> None:
        self.told: list[tuple[str, Any]] = []
        self._answers = answers

    def _note(self, event: str, argument: Any) -> Any:
        self.told.append((event, argument))
        answer = self._answers.get(event)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def on_start(self, started: pipeline.Started) -> Any:
        return self._note("start", started)

    def on_status(self, status: Status) -> Any:
        return self._note("status", status.environment_steps)

    def on_evaluation(self, evaluation: Evaluation) -> Any:
        return self._note("evaluation", evaluation.mean_return)

    def on_checkpoint(self, checkpoint: pipeline.CheckpointInfo) -> Any:
        return self._note("checkpoint", checkpoint.gradient_steps)

    def on_end(self, summary: Summary) -> None:
        self._note("end", summary.stop_reason)

    @property
    def events(self) -> list[tuple[str, Any]]:
        """What was told, without the start."""
        return self.told[1:]


def status(environment_steps: int, **fields: Any) -> Status:
    ledger = Ledger(EXPERIMENT, Counters(environment_steps=environment_steps, **fields))
    return ledger.status("learning", replay_size=0, loss=None, resident={})


def evaluation(mean_return: float, environment_steps: int = 0, is_whole: bool = True) -> Evaluation:
    numbers = mean_return, 0.0, mean_return, mean_return
    return Evaluation(environment_steps, environment_steps, *numbers, 1.0, 1, 0.0, 0, False, is_whole=is_whole)


class Written:
    """A run's directory, as the learner's process writes it."""

    def __init__(self, path: Path) -> None:
        self.run = RunDirectory(path)
        self.run.create(EXPERIMENT)

    def status(self, environment_steps: int, **fields: Any) -> None:
        write_json(self.run.status, status(environment_steps, **fields))

    def evaluation(self, *arguments: Any) -> None:
        with self.run.evaluations.open("ab") as file:
            file.write(msgspec.json.encode(evaluation(*arguments)) + b"\n")

    def checkpoint(self, steps: int) -> None:
        state = {"w": Array.of(np.zeros(1))}
        checkpoint_writer.write(self.run.checkpoints, b"", Counters(gradient_steps=steps), state, lambda: None, keep=1)

    def summary(self, stop_reason: str) -> None:
        write_json(self.run.summary, Ledger(EXPERIMENT, Counters()).summary(stop_reason, 0.0))


@pytest.fixture
def written(tmp_path: Path) -> Written:
    return Written(tmp_path / "run")


def look(notifier: Notifier, interruption: threading.Event | None = None) -> None:
    """What `tend` does when it is time to."""
    notifier._next_at = 0.0
    notifier.tend(interruption or threading.Event())


def test_what_happens_is_told_once_and_in_order(written: Written) -> None:
    written.evaluation(0.0, 1)
    written.status(1)
    written.checkpoint(1)
    recording = Recording()
    notifier = Notifier([recording])
    notifier.start(EXPERIMENT, written.run, "local", resumed=True)  # what there was before is not told
    look(notifier)
    assert [event for event, _ in recording.told] == ["start"]
    started = recording.told[0][1]
    assert (started.run.path, started.experiment, started.launcher) == (written.run.path, EXPERIMENT, "local")
    assert started.resumed
    written.evaluation(1.0, 100)
    written.evaluation(1.0, 100)  # sent twice
    written.evaluation(2.0, 200)
    with written.run.evaluations.open("ab") as file:
        file.write(b'{"environment_st')  # being written
    written.checkpoint(100)
    written.status(300)
    look(notifier)
    look(notifier)
    assert recording.events == [("evaluation", 1.0), ("evaluation", 2.0), ("checkpoint", 100), ("status", 300)]
    recording.told[1:] = []
    written.checkpoint(200)
    written.status(400)
    written.summary("environment_steps")
    notifier.end()
    assert recording.events == [("checkpoint", 200), ("status", 400), ("end", "environment_steps")]


def test_what_disk_and_crash_have_torn_is_passed_over(written: Written) -> None:
    recording = Recording()
    notifier = Notifier([recording])
    notifier.start(EXPERIMENT, written.run, "local", resumed=False)
    written.run.evaluations.write_bytes(b'{"torn\n')
    written.evaluation(3.0, 300)
    look(notifier)
    assert recording.events == [("evaluation", 3.0)]


@pytest.mark.parametrize(
    ("answer", "message"),
    [(pipeline.STOP, "Recording.on_status"), (pipeline.STOP("enough"), "Recording.on_status: enough")],
)
def test_a_stop_is_asked_for_once_and_all_are_told_on(written: Written, answer: Any, message: str) -> None:
    first, second = Recording(status=answer), Recording(status=pipeline.STOP("later"))
    notifier = Notifier([first, second])
    notifier.start(EXPERIMENT, written.run, "local", resumed=False)
    for steps in (1, 2):
        written.status(steps)
        look(notifier)
    request = msgspec.json.decode(written.run.stop_request.read_bytes())
    assert request == {"stop_reason": "callback", "message": message}
    written.summary("callback")
    notifier.end()
    assert first.events == second.events == [("status", 1), ("status", 2), ("end", "callback")]
    assert not written.run.stop_request.exists()


def test_an_error_ends_the_run_and_reaches_the_caller_after_on_end(written: Written) -> None:
    first, second = Recording(evaluation=KeyError("mine")), Recording(end=ValueError("and mine"))
    notifier = Notifier([first, second])
    notifier.start(EXPERIMENT, written.run, "local", resumed=False)
    written.evaluation(1.0, 1)
    written.status(1)
    look(notifier)
    request = msgspec.json.decode(written.run.stop_request.read_bytes())
    assert request == {"stop_reason": "failed", "message": "Recording.on_evaluation raised KeyError: 'mine'"}
    written.summary("failed")
    with pytest.raises(KeyError, match="mine") as caught:
        notifier.end()
    assert caught.value.__notes__ == ["and afterwards ValueError: and mine"]
    assert first.events == [("evaluation", 1.0), ("end", "failed")]
    assert second.events == [("end", "failed")]


def test_what_a_callback_returns_is_stop_or_nothing(written: Written) -> None:
    notifier = Notifier([Recording(status=False)])
    notifier.start(EXPERIMENT, written.run, "local", resumed=False)
    written.status(1)
    look(notifier)
    written.summary("failed")
    with pytest.raises(TypeError, match=r"Recording.on_status returned False: return pipeline.STOP"):
        notifier.end()


def test_an_error_at_the_start_is_raised_there(written: Written) -> None:
    with pytest.raises(ValueError, match="no"):
        Notifier([Recording(start=ValueError("no"))]).start(EXPERIMENT, written.run, "local", resumed=False)


def test_a_disk_that_takes_no_request_interrupts_the_run(written: Written) -> None:
    notifier, interruption = Notifier([Recording(status=pipeline.STOP)]), threading.Event()
    notifier.start(EXPERIMENT, written.run, "local", resumed=False)
    written.status(1)
    written.run.stop_request.with_name("stop.json.part").mkdir()  # in the way of what is written
    look(notifier, interruption)
    assert interruption.is_set()


@pytest.mark.parametrize(
    ("callbacks", "words"),
    [
        (pipeline.StopAfter(seconds=1), "callbacks is a list of callbacks"),
        (None, "callbacks is a list of callbacks, not None"),
        ({}, "callbacks is a list of callbacks"),
        ([pipeline.StopAfter], "callbacks[0] is the class StopAfter: give an instance"),
        ([pipeline.StopAfter(seconds=1), print], "callbacks[1] is <built-in function print>"),
    ],
)
def test_what_are_no_callbacks(callbacks: Any, words: str) -> None:
    with pytest.raises(pipeline.UsageError) as caught:
        checked(callbacks)
    assert words in str(caught.value)


def test_a_method_that_would_never_be_called_is_refused() -> None:
    with pytest.raises(pipeline.UsageError, match=r"Mine.on_eval is never called; the nearest method is on_evaluation"):
        type("Mine", (pipeline.Callback,), {"on_eval": print})


# Those that come with the package.


def started(path: Path, resumed: bool = False) -> pipeline.Started:
    run = RunDirectory(path)
    run.create(EXPERIMENT)
    return pipeline.Started(pipeline.Run(path), EXPERIMENT, "local", resumed)


def stopped_at(callback: pipeline.StopOnNoImprovement, returns: list[float], every: int = 10) -> int | None:
    for number, mean_return in enumerate(returns):
        if callback.on_evaluation(evaluation(mean_return, every * number)) is not None:
            return number
    return None


@pytest.mark.parametrize(
    ("arguments", "returns", "number"),
    [
        ({"evaluations": 2}, [1, 2, 2, 1.9, 3], 3),
        ({"evaluations": 2}, [1, 2, 2, 2.1, 2, 3], None),
        ({"evaluations": 1, "by_more_than": 0.5}, [1, 2, 2.5], 2),
        ({"evaluations": 1, "by_more_than": 0.5}, [1, 2, 2.6], None),
        ({"evaluations": 2, "after_steps": 30}, [5, 1, 1, 1, 1, 1], 4),
    ],
)
def test_stop_on_no_improvement(
    arguments: dict[str, Any], returns: list[float], number: int | None, tmp_path: Path
) -> None:
    callback = pipeline.StopOnNoImprovement(**arguments)
    for name in ("one", "another"):  # which begins anew
        callback.on_start(started(tmp_path / name))
        assert stopped_at(callback, returns) == number
    answer = callback.on_evaluation(evaluation(-100.0, is_whole=False))
    assert answer is None, "one that the end of the run has cut short"


def test_stop_after_counts_what_the_call_adds(written: Written) -> None:
    written.checkpoint(50)
    callback = pipeline.StopAfter(gradient_steps=10, episodes=5)
    callback.on_start(pipeline.Started(pipeline.Run(written.run.path), EXPERIMENT, "local", True))
    assert callback.on_status(status(0, gradient_steps=59, episodes=20)) is None
    assert callback.on_status(status(0, gradient_steps=59, episodes=24)) is None
    assert callback.on_status(status(0, gradient_steps=59, episodes=25)) == pipeline.STOP("after 5 episodes")
    assert callback.on_status(status(0, gradient_steps=61)) == pipeline.STOP("after 11 gradient steps")


def test_stop_after_seconds_and_evaluations(tmp_path: Path) -> None:
    callback = pipeline.StopAfter(evaluations=2, seconds=3600)
    callback.on_start(started(tmp_path / "run"))
    assert callback.on_evaluation(evaluation(1.0)) is None
    assert callback.on_status(status(10**9)) is None
    assert callback.on_evaluation(evaluation(1.0)) == pipeline.STOP("after 2 evaluations")
    callback = pipeline.StopAfter(seconds=0)
    callback.on_start(started(tmp_path / "run"))
    assert isinstance(callback.on_status(status(0)), pipeline.Stop)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: pipeline.StopAfter(), "needs one of seconds, environment_steps"),
        (lambda: pipeline.StopAfter(seconds=-1), "seconds is a number of at least 0, not -1"),
        (lambda: pipeline.StopAfter(seconds=float("nan")), "seconds is a number"),
        (lambda: pipeline.StopAfter(episodes=1.5), "episodes is a whole number"),  # type: ignore[arg-type]
        (lambda: pipeline.StopAfter(evaluations=True), "evaluations is a whole number"),
        (lambda: pipeline.StopOnNoImprovement(0), "evaluations is at least 1"),
        (lambda: pipeline.StopOnNoImprovement(by_more_than="x"), "by_more_than is a number"),  # type: ignore[arg-type]
        (lambda: pipeline.CsvLogger(""), "path is that of a file"),
        (lambda: pipeline.CsvLogger(every_seconds=-1), "every_seconds is a number"),
        (lambda: pipeline.STOP(3), "the reason of a stop is text"),  # type: ignore[arg-type]
    ],
)
def test_arguments_that_cannot_be(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(pipeline.UsageError) as caught:
        make()
    assert words in str(caught.value)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_table_of_a_run_goes_on_when_it_is_resumed(tmp_path: Path) -> None:
    callback, path = pipeline.CsvLogger(every_seconds=3600), tmp_path / "run" / "progress.csv"
    summary = Ledger(EXPERIMENT, Counters()).summary("seconds", 0.0)
    for resumed in (False, True):
        callback.on_start(started(tmp_path / "run", resumed))
        callback.on_status(status(100))
        callback.on_status(status(200))
        callback.on_evaluation(evaluation(7.5, 200))
        assert rows(path)[-1]["mean_return"] == "7.5", "rows are there at once"
        callback.on_end(summary)
    written = [(row["event"], row["environment_steps"], row["mean_return"]) for row in rows(path)]
    assert written == 2 * [("status", "100", ""), ("evaluation", "200", "7.5"), ("status", "200", "")]
    callback.on_start(started(tmp_path / "run"))
    assert rows(path) == [], "a new run replaces it"
    callback.on_end(summary)
    with pytest.raises(pipeline.UsageError, match="cannot be written"):
        pipeline.CsvLogger(tmp_path / "none" / "x.csv").on_start(started(tmp_path / "run"))


def test_a_bar_shows_the_budget_that_is_used_up_most() -> None:
    both = pipeline.load("cartpole", stop={"environment_steps": 1_000, "gradient_steps": 50})
    endless = pipeline.load("cartpole", stop={"environment_steps": 0, "target_return": 475.0})
    assert share_used(both, status(100, gradient_steps=20)) == pytest.approx(0.4)
    assert share_used(both, status(5_000)) == 1.0
    assert share_used(endless, status(5_000)) is None
    assert 'value="0.2500"' in as_html(Shown(0.25, "100 <steps>", "7.5"))
    assert "25 % 100 &lt;steps&gt;, evaluation 7.5" in as_html(Shown(0.25, "100 <steps>", "7.5"))
    assert "value" not in as_html(Shown(None, "filling", "-"))


def test_a_bar_in_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bar = pipeline.ProgressBar()
    bar.on_start(started(tmp_path / "run"))
    assert not bar.shows_progress, "what is captured is a log"
    bar.on_status(status(250))
    monkeypatch.setenv("FORCE_COLOR", "1")  # as rich is told of a terminal
    monkeypatch.setenv("COLUMNS", "200")
    bar.on_start(started(tmp_path / "run"))
    assert bar.shows_progress
    bar.on_evaluation(evaluation(7.5))
    bar.on_status(status(250))
    bar.on_end(Ledger(EXPERIMENT, Counters()).summary("seconds", 0.0))
    assert not bar.shows_progress
    printed = capsys.readouterr().out
    assert "250 environment steps" in printed
    assert "25%" in printed
    assert "evaluation 7.5" in printed


def test_a_tracker_starts_a_program_with_the_runs_directory_and_says_where_it_failed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = RunDirectory(tmp_path / "run")
    run.create(EXPERIMENT)
    started = pipeline.Started(pipeline.Run(run.path), EXPERIMENT, "inline", False)
    summary = Ledger(EXPERIMENT, Counters()).summary("environment_steps", 0.0)
    for code, is_said in ((0, False), (3, True)):
        program = f"import sys; print('follows', *sys.argv[1:]); raise SystemExit({code})"
        tracker = pipeline.Tracker([sys.executable, "-c", program, "--live"])
        tracker.on_start(started)
        assert tracker._process is not None
        assert tracker._process.wait(60) == code
        tracker.on_end(summary)
        said = capfd.readouterr()
        assert said.out == f"follows --live {run.path}\n"
        assert ("ended with exit code 3" in said.err) == is_said


@pytest.mark.parametrize("command", ["track.py", [], [1], ["/no/such/program"]])
def test_a_tracker_that_cannot_be_is_refused(command: Any, tmp_path: Path) -> None:
    RunDirectory(tmp_path / "run").create(EXPERIMENT)
    with pytest.raises(pipeline.UsageError, match="command"):
        pipeline.Tracker(command).on_start(
            pipeline.Started(pipeline.Run(tmp_path / "run"), EXPERIMENT, "inline", False)
        )
