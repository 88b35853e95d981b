"""`pipeline.Run`: a run's directory as plain data, with NumPy and TensorBoard alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from event_files import write

import pipeline
from pipeline.experiment.run_directory import RunDirectory, write_json
from pipeline.messages.contents import Array
from pipeline.records import checkpoint_writer
from pipeline.records.counters import Counters

TAG = "evaluation/mean_return"
EXPERIMENT = pipeline.load("cartpole", agent__n_step=4)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """As a run leaves it: config, status, result, two curves, two checkpoints and one that was not finished."""
    run = RunDirectory(tmp_path / "run")
    run.create(EXPERIMENT)
    write(run, "learner", *((10.0 * n, 100 * n, {"speed/train_seconds": 10.0 * n, "learner/loss": n}) for n in (1, 2)))
    write(run, "evaluator", (15.0, 150, {TAG: 7.5}))
    write_json(run.status, {"phase": "ended", "environment_steps": 200})
    write_json(run.summary, {"stop_reason": "environment_steps", "mean_return": 7.5})
    for steps in (100, 200):
        counters, state = Counters(environment_steps=steps, gradient_steps=steps // 10), {"w": Array.of(np.zeros(1))}
        checkpoint_writer.write(run.checkpoints, b"", counters, state, lambda: None, keep=2)
    (run.checkpoints / "000003-000000000030.part").mkdir()
    return run


def test_a_run_as_plain_data(run: RunDirectory) -> None:
    found = pipeline.Run(run.path)
    assert found.path == run.path
    assert found.config["agent"]["n_step"] == 4
    assert found.experiment() == EXPERIMENT
    assert found.status is not None
    assert found.status["environment_steps"] == 200
    assert found.summary == {"stop_reason": "environment_steps", "mean_return": 7.5}
    assert not found.is_running
    assert found.tags == [TAG, "learner/loss", "speed/train_seconds"]
    assert [(each.environment_steps, each.gradient_steps) for each in found.checkpoints] == [(100, 10), (200, 20)]
    assert all(each.path.is_dir() for each in found.checkpoints)


def test_curves_over_steps_and_over_seconds(run: RunDirectory) -> None:
    found = pipeline.Run(str(run.path))
    curve = found.curve()
    assert (curve.x.tolist(), curve.y.tolist()) == ([150.0], [7.5])
    assert found.curve("learner/loss", over="seconds").x.tolist() == [10.0, 20.0]
    several = found.curves("learner/loss", TAG)
    assert list(several) == ["learner/loss", TAG]
    for tag, each in found.curves().items():
        np.testing.assert_array_equal(each, found.curve(tag))
    frame = found.frame("learner/loss", TAG)
    assert frame.index.tolist() == [100.0, 150.0, 200.0]
    assert frame[TAG].dropna().to_dict() == {150.0: 7.5}


def test_a_run_that_has_just_begun(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.create(EXPERIMENT)
    run.lock()
    found = pipeline.Run(run.path)
    assert found.is_running
    run.unlock()
    assert (found.status, found.summary, found.tags, found.checkpoints, found.curves()) == (None, None, [], [], {})


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda run: pipeline.Run(run.path.parent), "holds no run: there is no config.toml"),
        (lambda run: pipeline.Run(""), "path is that of a run's directory"),
        (lambda run: pipeline.Run(3), "path is that of a run's directory"),  # type: ignore[arg-type]
        (lambda run: pipeline.Run(run.path).curve("learner/los"), "the nearest tag is 'learner/loss'"),
        (lambda run: pipeline.Run(run.path).curves(TAG, "x"), "no value of 'x'"),
        (lambda run: pipeline.Run(run.path).curve(TAG, over="minutes"), "over is 'steps' or 'seconds'"),
        (lambda run: pipeline.Run(run.path).curve(3), "tag is text"),
    ],
)
def test_mistakes_are_said_in_a_line(run: RunDirectory, ask: Callable[[RunDirectory], Any], words: str) -> None:
    with pytest.raises(pipeline.UsageError) as caught:
        ask(run)
    assert words in str(caught.value)


def test_numpy_and_tensorboard_are_enough(run: RunDirectory, run_python: Callable[..., str]) -> None:
    refused = {"tensorflow", "reverb", "tf_agents", "msgspec", "gymnasium", "psutil", "rich", "tomli_w"}
    code = f"""
    import sys

    class Refuse:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in {refused | {"pandas"}}:
                raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

    sys.meta_path.insert(0, Refuse())
    import pipeline

    run = pipeline.Run(sys.argv[1])
    print(run.config["agent"]["n_step"], run.status["phase"], run.summary["mean_return"], run.is_running)
    print(len(run.checkpoints), run.curve().y, sorted(run.curves()))
    assert "agents" not in sys.modules
    try:
        run.frame()
    except pipeline.UsageError as error:
        print(error)
    """
    printed = run_python(code, str(run.path)).splitlines()
    assert printed[0] == "4 ended 7.5 False"
    assert printed[1].startswith("2 [7.5]")
    assert printed[2].startswith("frame needs pandas")
