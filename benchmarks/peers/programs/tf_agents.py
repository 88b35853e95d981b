"""TF-Agents 0.19.0 with Reverb 0.14.0: DQN as TF-Agents' own tutorial runs it, every part its own.

Form: TF-Agents' tutorial "Train a Deep Q Network" (`docs/tutorials/1_dqn_tutorial.ipynb`): one environment of
`suite_gym` (gym 0.23, the newest that TF-Agents 0.19 takes; the rules of CartPole-v1 are gymnasium's), PyDriver,
ReverbAddTrajectoryObserver, ReverbReplayBuffer.as_dataset and common.function(agent.train), in one process.
"collect" is TF-Agents' form for batches, `DynamicStepDriver` in a common.function with `TFUniformReplayBuffer`, as in
its `agents/dqn/examples/v2/train_eval.py`, over BatchedPyEnvironment without threads: on two cores that was faster
than with threads and than ParallelPyEnvironment; and for one environment faster than PyDriver with Reverb.

"fixed" and "learner" are measured in two forms: the tutorial's, and as "in_graph_..." train_eval.py's own:
DynamicStepDriver and TFUniformReplayBuffer, with drawing and training in one common.function, without Reverb. "solve"
is the tutorial's form and takes the tutorial's settings
(Adam 1e-3, batch 64, layers of 100 and 50, epsilon 0.1, 100 random steps first); those of train_eval.py (a discount
of 0.99, a slow target) had not solved it after 80,000 steps with the one seed tried.
"""

import importlib
import importlib.metadata
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np

from benchmarks.peers import works


def _quieten_gym() -> None:
    """Imports gym without its notice about being unmaintained: no other message is lost."""
    stderr, sys.stderr = sys.stderr, open(os.devnull, "w")  # noqa: SIM115
    try:
        importlib.import_module("gym")
    finally:
        sys.stderr.close()
        sys.stderr = stderr


_quieten_gym()

import reverb  # noqa: E402
import tensorflow as tf  # noqa: E402
from tf_agents.agents.dqn import dqn_agent  # noqa: E402
from tf_agents.drivers import dynamic_step_driver, py_driver  # noqa: E402
from tf_agents.environments import batched_py_environment, suite_gym, tf_py_environment  # noqa: E402
from tf_agents.metrics import tf_metrics  # noqa: E402
from tf_agents.networks import q_network  # noqa: E402
from tf_agents.policies import py_tf_eager_policy, random_py_policy, random_tf_policy  # noqa: E402
from tf_agents.replay_buffers import reverb_replay_buffer, reverb_utils, tf_uniform_replay_buffer  # noqa: E402
from tf_agents.specs import tensor_spec  # noqa: E402
from tf_agents.utils import common  # noqa: E402

_TABLE = "uniform_table"
# the tutorial's: TF-Agents' defaults else, so no discount (gamma 1) and a target copied after every gradient step
_SOLVE_UNITS, _SOLVE_WARM_UP, _SOLVE_EPSILON = (100, 50), 100, 0.1


class Form(Protocol):
    """A way to collect and to train."""

    def collect(self, steps: int) -> None:
        """Steps the environment by the agent's collect policy, into the replay."""

    def learn(self) -> None:
        """One gradient step on a batch drawn from the replay."""


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    tf.random.set_seed(seed)


def _environment(seed: int) -> Any:
    environment = suite_gym.load(works.ENVIRONMENT)
    environment.seed(seed)
    return environment


def _tf_environment(lanes: int, seed: int) -> Any:
    environments = [_environment(seed + lane) for lane in range(lanes)]
    batched = batched_py_environment.BatchedPyEnvironment(environments, multithreading=False)
    return tf_py_environment.TFPyEnvironment(batched)


def _agent(units: Sequence[int], epsilon: float) -> Any:
    environment = _tf_environment(1, 0)
    network = q_network.QNetwork(
        environment.observation_spec(), environment.action_spec(), fc_layer_params=tuple(units)
    )
    agent = dqn_agent.DqnAgent(
        environment.time_step_spec(),
        environment.action_spec(),
        q_network=network,
        optimizer=tf.keras.optimizers.Adam(1e-3),
        td_errors_loss_fn=common.element_wise_squared_loss,
        epsilon_greedy=epsilon,
        train_step_counter=tf.Variable(0, dtype=tf.int64),  # its own: the default is one for all agents of a process
    )
    agent.initialize()
    return agent


class Replay:
    """A Reverb server with one table, its buffer and the observer that writes to it."""

    def __init__(self, agent: Any, capacity: int) -> None:
        table = reverb.Table(
            _TABLE,
            max_size=capacity,
            sampler=reverb.selectors.Uniform(),
            remover=reverb.selectors.Fifo(),
            rate_limiter=reverb.rate_limiters.MinSize(1),
            signature=tensor_spec.add_outer_dim(tensor_spec.from_spec(agent.collect_data_spec)),
        )
        self._server = reverb.Server([table])
        self._buffer = reverb_replay_buffer.ReverbReplayBuffer(
            agent.collect_data_spec, table_name=_TABLE, sequence_length=2, local_server=self._server
        )
        self.observer = reverb_utils.ReverbAddTrajectoryObserver(self._buffer.py_client, _TABLE, sequence_length=2)

    def samples(self, batch_size: int) -> Any:
        """An endless iterator of batches."""
        dataset = self._buffer.as_dataset(num_parallel_calls=3, sample_batch_size=batch_size, num_steps=2)
        return iter(dataset.prefetch(3))


class Tutorial:
    """PyDriver, Reverb and common.function(agent.train)."""

    def __init__(self, agent: Any, seed: int, filled: int) -> None:
        self._environment = _environment(seed)
        self._replay = Replay(agent, works.REPLAY_CAPACITY)
        specs = self._environment.time_step_spec(), self._environment.action_spec()
        fill = self._driver(random_py_policy.RandomPyPolicy(*specs, seed=seed), filled)
        self._time_step, _ = fill.run(self._environment.reset())
        policy = py_tf_eager_policy.PyTFEagerPolicy(agent.collect_policy, use_tf_function=True)
        self._one_step = self._driver(policy, 1)
        self._train = common.function(agent.train)
        self.draw_from(works.BATCH_SIZE)

    def draw_from(self, batch_size: int) -> None:
        """Changes the batch size."""
        self._samples = self._replay.samples(batch_size)

    def collect(self, steps: int) -> None:
        for _ in range(steps):
            self._time_step, _ = self._one_step.run(self._time_step)

    def learn(self) -> None:
        experience, _ = next(self._samples)
        self._train(experience)

    def _driver(self, policy: Any, steps: int) -> Any:
        return py_driver.PyDriver(self._environment, policy, [self._replay.observer], max_steps=steps)


class InGraph:
    """DynamicStepDriver and TFUniformReplayBuffer; drawing and training in one common.function."""

    def __init__(self, agent: Any, seed: int, filled: int) -> None:
        self._agent = agent
        self._environment = _tf_environment(1, seed)
        self._buffer = tf_uniform_replay_buffer.TFUniformReplayBuffer(
            agent.collect_data_spec, batch_size=1, max_length=works.REPLAY_CAPACITY
        )
        specs = self._environment.time_step_spec(), self._environment.action_spec()
        self._time_step, _ = self._driver(random_tf_policy.RandomTFPolicy(*specs), filled)()
        self._one_step = self._driver(agent.collect_policy, 1)
        self.draw_from(works.BATCH_SIZE)

    def draw_from(self, batch_size: int) -> None:
        """Changes the batch size."""
        dataset = self._buffer.as_dataset(num_parallel_calls=3, sample_batch_size=batch_size, num_steps=2)
        samples = iter(dataset.prefetch(3))

        def train() -> Any:
            experience, _ = next(samples)
            return self._agent.train(experience)

        self._train = common.function(train)

    def collect(self, steps: int) -> None:
        for _ in range(steps):
            self._time_step, _ = self._one_step(time_step=self._time_step)

    def learn(self) -> None:
        self._train()

    def _driver(self, policy: Any, steps: int) -> Any:
        driver = dynamic_step_driver.DynamicStepDriver(
            self._environment, policy, observers=[self._buffer.add_batch], num_steps=steps
        )
        return common.function(driver.run)


def solve(request: works.Request) -> dict[str, Any]:
    solving = works.Solving(request)
    _seed(request.seed)
    agent = _agent(_SOLVE_UNITS, _SOLVE_EPSILON)
    policy = _greedy(agent)
    solving.start()
    form = Tutorial(agent, request.seed, _SOLVE_WARM_UP)
    steps = _SOLVE_WARM_UP
    while True:
        form.collect(1)
        form.learn()
        steps += 1
        if steps % works.CHECK_EVERY == 0 and solving.check(steps, policy):
            _assert_counted(agent, steps - _SOLVE_WARM_UP)
            return solving.result()


def _greedy(agent: Any) -> works.Policy:
    @tf.function
    def act(observations: tf.Tensor) -> tf.Tensor:
        return tf.argmax(agent._q_network(observations)[0], axis=-1)

    return lambda observations: act(tf.constant(observations)).numpy()


def _assert_counted(agent: Any, steps: int) -> None:
    taken = int(agent.train_step_counter), int(agent._optimizer.iterations)
    assert taken == (steps, steps), f"{taken} gradient steps for {steps} counted"


def fixed(request: works.Request) -> dict[str, Any]:
    steps, rate = _fixed(request, Tutorial)
    _, in_graph = _fixed(request, InGraph)
    return {"steps_per_second": rate, "steps": steps, "in_graph_steps_per_second": in_graph}


def _fixed(request: works.Request, form_of: type[Tutorial] | type[InGraph]) -> tuple[int, float]:
    _seed(request.seed)
    agent = _agent(works.HIDDEN_UNITS, 0.1)
    form = form_of(agent, request.seed, works.WARM_UP)

    def step() -> None:
        form.collect(1)
        form.learn()

    for _ in range(50):
        step()
    started, steps = time.perf_counter(), 0
    while steps < request.steps and time.perf_counter() - started < request.seconds:
        step()
        steps += 1
    passed = time.perf_counter() - started
    _assert_counted(agent, 50 + steps)
    return steps, steps / passed


def learner(request: works.Request) -> dict[str, Any]:
    rates = _learner(request, Tutorial)
    return rates | {f"in_graph_{size}": value for size, value in _learner(request, InGraph).items()}


def _learner(request: works.Request, form_of: type[Tutorial] | type[InGraph]) -> dict[str, float]:
    _seed(request.seed)
    agent = _agent(works.HIDDEN_UNITS, 0.1)
    form = form_of(agent, request.seed, works.FILLED)
    rates: dict[str, float] = {}
    for batch_size in request.batch_sizes:
        form.draw_from(batch_size)
        before, calls = int(agent.train_step_counter), 0

        def learn() -> int:
            nonlocal calls
            form.learn()
            calls += 1
            return 1

        rates[str(batch_size)] = works.rate(learn, request.seconds)
        assert int(agent.train_step_counter) - before == calls, "gradient steps are miscounted"
    return rates


def collect(request: works.Request) -> dict[str, Any]:
    _seed(request.seed)
    agent = _agent(works.HIDDEN_UNITS, 0.05)
    return {str(lanes): works.rate(_collector(agent, lanes, request.seed), request.seconds) for lanes in request.lanes}


def _collector(agent: Any, lanes: int, seed: int) -> Callable[[], int]:
    """Collects 64 vector steps a call; the metric tells true steps from the ones that only reset a lane."""
    buffer = tf_uniform_replay_buffer.TFUniformReplayBuffer(
        agent.collect_data_spec, batch_size=lanes, max_length=works.REPLAY_CAPACITY // lanes
    )
    counter = tf_metrics.EnvironmentSteps()
    environment = _tf_environment(lanes, seed)
    driver = dynamic_step_driver.DynamicStepDriver(
        environment, agent.collect_policy, observers=[buffer.add_batch, counter], num_steps=64 * lanes
    )
    run = common.function(driver.run)
    time_step = environment.reset()

    def call() -> int:
        nonlocal time_step
        before = int(counter.result())
        time_step, _ = run(time_step=time_step)
        return int(counter.result()) - before

    return call


if __name__ == "__main__":
    works.main(
        {"solve": solve, "fixed": fixed, "learner": learner, "collect": collect},
        {name: importlib.metadata.version(name) for name in ("tf-agents", "dm-reverb", "tensorflow", "gym")},
    )
