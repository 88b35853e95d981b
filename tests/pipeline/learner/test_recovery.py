"""Batches written aside and rollbacks, with a real learner and real checkpoints."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from agents import DqnConfig
from agents.specs import ArraySpec, Specs
from pipeline.experiment.config import UsageError
from pipeline.experiment.run_directory import RunDirectory
from pipeline.experiment.sections import Experiment, LearnerConfig
from pipeline.learner import bad_batches
from pipeline.learner.learner import Learner
from pipeline.learner.recovery import Recovery
from pipeline.records import checkpoint_writer
from pipeline.records.counters import Counters
from pipeline.replay.frames import FrameLayout
from pipeline.replay.sampling import Sample, decode

SPECS = Specs({"a": ArraySpec((3,), "float32"), "b": ArraySpec((2,), "float32")}, num_actions=2, masked=True)
STEPS, BATCH = 4, 2


class Setting:
    """A learner with its recovery in a run directory."""

    def __init__(self, folder: Path, bad_updates: int = 3) -> None:
        self.experiment = Experiment(
            agent=DqnConfig(hidden_units=(8,), learning_rate=0.01),
            learner=LearnerConfig(
                batch_size=BATCH, steps_per_call=STEPS, loop="plain", bad_updates=bad_updates, rollbacks=2
            ),
        )
        self.run, self.counters = RunDirectory(folder), Counters()
        self.learner = Learner(self.experiment, SPECS)
        self.recovery = Recovery(self.experiment, SPECS, self.run, self.learner, self.counters)

    def learn(self, *bad: int) -> str:
        """A call with rewards that are no numbers in some batches."""
        layout = FrameLayout(SPECS)
        frames = tf.zeros((STEPS, BATCH, 2, layout.num_bytes), tf.uint8)
        trajectory, versions = decode(frames, layout)
        reward = np.ones((STEPS, BATCH, 2), np.float32)
        reward[list(bad), 1, 0] = np.nan
        observation, mask = trajectory.observation
        trajectory = trajectory._replace(
            reward=tf.constant(reward),
            observation=(tf.nest.map_structure(tf.ones_like, observation), tf.ones_like(mask)),
            step_type=tf.ones_like(trajectory.step_type),
        )
        sample = Sample(trajectory, versions, tf.ones((STEPS, BATCH)), tf.zeros((STEPS * BATCH,), tf.uint64))
        return self.recovery.judge(sample, self.learner.learn(sample))

    def checkpoint(self) -> None:
        """Writes one, with a replay that stands for Reverb's."""
        replay = self.run.path / "written-by-reverb"
        replay.mkdir(exist_ok=True)
        (replay / "DONE").write_bytes(b"")
        self.counters.gradient_steps = self.learner.gradient_steps
        checkpoint_writer.write(self.run.checkpoints, b"", self.counters, self.learner.state(), lambda: replay, keep=2)

    def state(self) -> list[Any]:
        return [variable.numpy() for variable in self.learner.agent.variables]


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(tmp_path)


def test_the_first_batch_of_a_row_is_written_aside_alone(tmp_path: Path) -> None:
    setting = Setting(tmp_path, bad_updates=10)
    assert setting.learn() == ""
    assert not setting.run.bad_batches.exists()
    assert setting.recovery.warnings == []
    assert setting.learn(2, 3) == ""
    assert not setting.recovery.is_calm
    assert setting.learn(0) == ""  # goes on with the row
    assert setting.recovery.is_calm
    assert setting.counters.skipped_updates == 3
    assert [path.name for path in setting.run.bad_batches.iterdir()] == ["000000000007.msgpack"]


def test_what_a_file_holds(setting: Setting) -> None:
    setting.learn(2)
    (path,) = setting.run.bad_batches.iterdir()
    assert path.name == "000000000003.msgpack"
    batch = bad_batches.read(path)
    shapes = {name: array.shape for name, array in batch.items()}
    assert shapes == {
        "step_type": (2, 2),
        "next_step_type": (2, 2),
        "action": (2, 2),
        "reward": (2, 2),
        "discount": (2, 2),
        "observation/0/a": (2, 2, 3),
        "observation/0/b": (2, 2, 2),
        "observation/1": (2, 2, 2),
        "weights_gradient_steps": (2,),
        "relative_probability": (2,),
    }
    np.testing.assert_array_equal(batch["reward"], [[1.0, 1.0], [np.nan, 1.0]])
    assert setting.recovery.warnings == [
        f"updates were skipped, as loss or gradient was not finite: see a batch in {setting.run.bad_batches}"
    ]


def test_the_newest_five_are_kept(tmp_path: Path) -> None:
    for step in range(8):
        bad_batches.write(tmp_path, step, {"reward": np.zeros(1)})
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{step:012d}.msgpack" for step in range(3, 8)]


def test_what_is_no_bad_batch_is_refused(tmp_path: Path) -> None:
    (tmp_path / "no.msgpack").write_bytes(b"\x81\xa1a\x01")
    for name in ("no.msgpack", "missing.msgpack"):
        with pytest.raises(UsageError, match="holds no bad batch"):
            bad_batches.read(tmp_path / name)


def test_before_the_first_checkpoint_a_row_ends_the_run(setting: Setting) -> None:
    reason = setting.learn(0, 1, 2)
    assert "loss or gradient was not finite within gradient steps up to 4: lower agent.learning_rate" in reason
    assert reason.endswith("there was no checkpoint to roll back to")
    assert setting.counters.rollbacks == 0


@pytest.mark.parametrize("cause", ["updates", "weights"])
def test_rollbacks_restore_the_checkpoint_at_a_lower_rate_until_they_do_not_help(setting: Setting, cause: str) -> None:
    def spoil() -> str:
        if cause == "updates":
            return setting.learn(1, 2, 3)
        weight: Any = setting.learner.agent.acting_model.trainable_weights[0]
        weight.assign(np.full(weight.shape, np.nan, np.float32))
        return setting.recovery.replace_weights()

    setting.learn()
    setting.checkpoint()
    good, agent = setting.state(), setting.learner.agent
    for rollbacks in (1, 2):
        setting.learn()
        assert spoil() == ""
        assert setting.counters.rollbacks == rollbacks
        assert float(agent.learning_rate) == pytest.approx(0.01 * 0.5**rollbacks)
        assert setting.learner.gradient_steps == agent.train_step_counter.numpy() > 4 * rollbacks
        for variable, value in zip(agent.variables, good, strict=True):
            if variable is not agent.train_step_counter and variable is not agent.learning_rate_scale:
                np.testing.assert_array_equal(variable.numpy(), value)
    assert spoil().endswith("2 rollbacks did not help")
    assert setting.counters.rollbacks == 2


def test_a_process_rolls_back_from_weights_that_it_would_publish(
    make_experiment: Callable[..., Experiment], counting_specs: Specs, tmp_path: Path
) -> None:
    from pipeline.messages.ports import free_port
    from pipeline.records.results import Ended
    from pipeline.roles.learner_parts import Place, learner_parts
    from pipeline.roles.learner_role import LearningProcess

    run = RunDirectory(tmp_path)
    experiment, place = make_experiment(), Place(free_port(), blocking=False)
    parts = learner_parts(experiment, counting_specs, run, place)
    process = LearningProcess(experiment, run, place, parts, started=0.0)
    try:
        weight: Any = process.learner.agent.acting_model.trainable_weights[0]
        good, bad = weight.numpy(), np.full(weight.shape, np.inf, np.float32)
        weight.assign(bad)
        with pytest.raises(Ended, match=r"weights were not finite .* no checkpoint to roll back to"):
            process.publication()
        weight.assign(good)
        process.checkpoint()
        weight.assign(bad)
        assert all(array.is_finite for array in process.publication().weights)
        np.testing.assert_array_equal(weight.numpy(), good)
        assert process.ledger.counters.rollbacks == 1
        weight.assign(bad)
        assert process.publication(stopping=True).stopping  # roles leave whatever the weights are
    finally:
        process.replay.stop()  # nothing else was started
