"""The agents of every kind in TF-Agents' own training loop: its actor, Reverb observer, learner and saved policies."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reverb
import tensorflow as tf
from kinds import config_of
from tf_agents.environments import py_environment, tf_py_environment
from tf_agents.policies import policy_saver, py_tf_eager_policy
from tf_agents.replay_buffers import reverb_replay_buffer, reverb_utils
from tf_agents.specs import array_spec
from tf_agents.train import actor, learner
from tf_agents.trajectories import time_step
from tiers import tiered

import agents
from agents import BUILDERS, Specs
from agents.optimizers import gradient_step_counter

LENGTH, EPISODE = 5, 12


class Ring(py_environment.PyEnvironment):
    """Places on a ring, as vectors or as categories; three actions go back, stay or go on; place 0 pays 1."""

    def __init__(self, categories: bool) -> None:
        super().__init__()
        self._categories = categories

    def action_spec(self) -> Any:
        return array_spec.BoundedArraySpec((), np.int64, 0, 2)

    def observation_spec(self) -> Any:
        if self._categories:
            return array_spec.BoundedArraySpec((), np.int32, 0, LENGTH - 1)
        return array_spec.BoundedArraySpec((LENGTH,), np.float32, 0.0, 1.0)

    def _here(self) -> Any:
        return np.int32(self._place) if self._categories else np.eye(LENGTH, dtype=np.float32)[self._place]

    def _reset(self) -> Any:
        self._place, self._steps = 2, 0
        return time_step.restart(self._here())

    def _step(self, action: Any) -> Any:
        if self._steps == EPISODE:
            return self.reset()
        self._steps += 1
        self._place = (self._place + int(action) - 1) % LENGTH
        reward = np.float32(self._place == 0)
        if self._steps == EPISODE:
            return time_step.termination(self._here(), reward)
        return time_step.transition(self._here(), reward)


KINDS = [kind for kind in BUILDERS if not config_of(kind).offline_only]


@pytest.mark.parametrize("kind", tiered(KINDS, ["rainbow"]))
def test_trains_in_the_loop_of_tf_agents(kind: str, tmp_path: Path) -> None:
    config = config_of(kind)
    environment = Ring(categories=kind == "q_learning")
    in_tensorflow = tf_py_environment.TFPyEnvironment(Ring(categories=kind == "q_learning"))
    specs = Specs.from_tf_agents(in_tensorflow.time_step_spec(), in_tensorflow.action_spec())
    agent = agents.build(kind, specs, config, epsilon=0.2, seed=1)
    before = [weight.numpy() for weight in agent.acting_model.trainable_weights]

    table = reverb.Table(
        "windows", reverb.selectors.Uniform(), reverb.selectors.Fifo(), 1_000, reverb.rate_limiters.MinSize(1)
    )
    server = reverb.Server([table])
    try:
        replay = reverb_replay_buffer.ReverbReplayBuffer(
            agent.collect_data_spec, table_name="windows", sequence_length=config.window_length, local_server=server
        )
        observer = reverb_utils.ReverbAddTrajectoryObserver(
            replay.py_client, "windows", sequence_length=config.window_length, stride_length=1
        )
        policy = py_tf_eager_policy.PyTFEagerPolicy(agent.collect_policy, use_tf_function=True)
        actor.Actor(
            environment, policy, gradient_step_counter(), steps_per_run=10 * EPISODE, observers=[observer]
        ).run()
        observer.close()
        trainer = learner.Learner(
            str(tmp_path / "learner"),
            agent.train_step_counter,
            agent,
            lambda: replay.as_dataset(sample_batch_size=8, num_steps=config.window_length).prefetch(1),
        )
        loss = trainer.run(iterations=5).loss
    finally:
        server.stop()
    assert np.isfinite(loss)
    assert agent.train_step_counter.numpy() == 5
    after = [weight.numpy() for weight in agent.acting_model.trainable_weights]
    assert any((new != old).any() for new, old in zip(after, before, strict=True))

    policy_saver.PolicySaver(agent.policy, batch_size=None).save(str(tmp_path / "greedy"))
    saved, step = tf.saved_model.load(str(tmp_path / "greedy")), in_tensorflow.reset()
    state = agent.policy.get_initial_state(1)
    assert saved.action(step, state).action == agent.policy.action(step, state).action


@pytest.mark.parametrize("kind", ["dqn", "rainbow", "qr_dqn", "iqn"])
def test_the_noise_of_a_noisy_network_explores_in_its_collect_policy_alone(kind: str) -> None:
    specs = Specs(agents.ArraySpec((4,), "float32"), 3)
    agent = agents.build(kind, specs, BUILDERS[kind].config(noisy=True, hidden_units=(8,)), epsilon=0.0)
    step = time_step.restart(tf.constant(np.random.default_rng(0).normal(size=(64, 4)), tf.float32), 64)

    def distinct(policy: Any) -> int:
        return len({policy.action(step, policy.get_initial_state(64)).action.numpy().tobytes() for _ in range(20)})

    assert distinct(agent.policy) == 1
    assert distinct(agent.collect_policy) > 5
