"""CleanRL's DQN in JAX (`dqn_jax.py` of CleanRL 1.0 and later) on jax 0.10.2, flax 0.12.8 and optax 0.2.8.

CleanRL is single-file scripts and no library, so this is its published algorithm, written anew: one process that steps
a gymnasium `SyncVectorEnv`, keeps transitions in a uniform ring buffer in host memory and, every `train_frequency`
steps, gives a sampled batch to one jitted update (mean squared TD error, Adam, hard target copies).

Settings of the work "solve_published" are the defaults of `dqn_jax.py`, which its authors publish for CartPole-v1
(https://docs.cleanrl.dev/rl-algorithms/dqn/#dqn_jaxpy): 500 000 steps, learning rate 2.5e-4, buffer 10 000, discount
0.99, tau 1, target network every 500 steps, batch 128, epsilon 1 to 0.05 over half the steps, learning from step 10
000 on every 10 steps, network 120-84. They are made for a sure run and not for a short one: epsilon falls for 250 000
steps. The work "solve" shows the script at its best and changes what the script has options for: learning rate 1e-3,
learning from step 1 000 on every 2 steps, target network every 250, epsilon falling over 10 000 steps. These are our
choice and nobody's publication: the first of five settings looked at, the only one run on each of the seeds 100 to 104
(in JAX), where it solved on all, in 10 000 to 60 000 steps.

The other works use the sizes common to all peers, epsilon 0.05 and Adam at 1e-3.

Departures, each meant to the peer's advantage: the buffer is plain NumPy and returns arrays (the original's goes
through torch tensors), the argmax is inside the jitted call, nothing is logged, and "collect" with more than one
environment steps gymnasium's own vectorised CartPole, the original being limited to one environment.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax
import flax.linen as nn
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training.train_state import TrainState
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from benchmarks.peers.works import (
    BATCH_SIZE,
    CHECK_EVERY,
    ENVIRONMENT,
    FILLED,
    HIDDEN_UNITS,
    REPLAY_CAPACITY,
    WARM_UP,
    Request,
    Solving,
    main,
    rate,
)

Array = np.ndarray[Any, Any]
Batch = tuple[Array, Array, Array, Array, Array]
"""Observations, actions, rewards, next observations and terminations."""

COMPILED_STEPS = 50  # steps of the fixed work before its clock starts
UPDATES_A_CALL = 100
CALLS_A_MEASURE = 100


@dataclass(frozen=True)
class Settings:
    hidden_units: tuple[int, ...] = (120, 84)
    learning_rate: float = 2.5e-4
    discount: float = 0.99
    capacity: int = 10_000
    batch_size: int = 128
    total_steps: int = 500_000
    learning_starts: int = 10_000
    train_frequency: int = 10
    target_frequency: int = 500
    start_epsilon: float = 1.0
    end_epsilon: float = 0.05
    exploration_fraction: float = 0.5

    def epsilon(self, step: int) -> float:
        slope = (self.end_epsilon - self.start_epsilon) / (self.exploration_fraction * self.total_steps)
        return max(slope * step + self.start_epsilon, self.end_epsilon)


PUBLISHED = Settings()
QUICK = Settings(
    learning_rate=1e-3,
    total_steps=100_000,
    learning_starts=1_000,
    train_frequency=2,
    target_frequency=250,
    exploration_fraction=0.1,
)
COMMON = Settings(HIDDEN_UNITS, 1e-3, capacity=REPLAY_CAPACITY, batch_size=BATCH_SIZE, start_epsilon=0.05)


class Replay:
    """A uniform ring of transitions, one preallocated array a field."""

    def __init__(self, capacity: int, seed: int) -> None:
        self._fields = (
            np.zeros((capacity, 4), np.float32),
            np.zeros(capacity, np.int32),
            np.zeros(capacity, np.float32),
            np.zeros((capacity, 4), np.float32),
            np.zeros(capacity, np.float32),
        )
        self._capacity, self._next, self.size = capacity, 0, 0
        self._random = np.random.default_rng(seed)

    def add(self, transitions: Batch) -> None:
        end = self._next + len(transitions[1])
        rows = slice(self._next, end) if end <= self._capacity else np.arange(self._next, end) % self._capacity
        for field, values in zip(self._fields, transitions, strict=True):
            field[rows] = values
        self._next = end % self._capacity
        self.size = max(self.size, min(end, self._capacity))

    def sample(self, batch_size: int) -> Batch:
        rows = self._random.integers(self.size, size=batch_size)
        observations, actions, rewards, nexts, terminations = self._fields
        return (observations[rows], actions[rows], rewards[rows], nexts[rows], terminations[rows])


class SyncLanes:
    """Environments as the original steps them: reset in the step that ends an episode."""

    def __init__(self, lanes: int, seed: int) -> None:
        made = [partial(gymnasium.make, ENVIRONMENT)] * lanes
        self._environments = SyncVectorEnv(made, autoreset_mode=AutoresetMode.SAME_STEP)
        self.observations: Array = self._environments.reset(seed=seed)[0]

    def step(self, actions: Array) -> Batch:
        """The transitions of one step, the last observation of a truncated episode in its place."""
        before = self.observations
        self.observations, rewards, terminated, truncated, infos = self._environments.step(actions)
        nexts = self.observations
        if truncated.any():
            nexts = nexts.copy()
            for lane in np.flatnonzero(truncated):
                nexts[lane] = infos["final_obs"][lane]
        return before, actions, rewards, nexts, terminated


class VectorisedLanes:
    """Gymnasium's CartPole in NumPy: resets in the step after an episode's last, which is no transition."""

    def __init__(self, lanes: int, seed: int) -> None:
        self._environments = gymnasium.make_vec(
            ENVIRONMENT, num_envs=lanes, vectorization_mode="vector_entry_point"
        ).unwrapped
        self.observations: Array = self._environments.reset(seed=seed)[0]
        self._resetting = np.zeros(lanes, bool)

    def step(self, actions: Array) -> Batch:
        before, real = self.observations, ~self._resetting
        self.observations, rewards, terminated, truncated, _ = self._environments.step(actions)
        self._resetting = terminated | truncated
        transitions = before, actions, rewards, self.observations, terminated
        return transitions if real.all() else tuple(values[real] for values in transitions)


class QNetwork(nn.Module):
    hidden_units: tuple[int, ...]

    @nn.compact
    def __call__(self, observations: jax.Array) -> jax.Array:
        values = observations
        for units in self.hidden_units:
            values = nn.relu(nn.Dense(units)(values))
        return nn.Dense(2)(values)


class LearnerState(TrainState):
    target_params: flax.core.FrozenDict[str, Any]


class Agent:
    """The network, its target and the optimizer, with the two jitted calls of the script."""

    def __init__(self, settings: Settings, seed: int) -> None:
        network = QNetwork(settings.hidden_units)
        params = network.init(jax.random.PRNGKey(seed), np.zeros((1, 4), np.float32))
        adam = optax.adam(settings.learning_rate)
        self.state = LearnerState.create(apply_fn=network.apply, params=params, target_params=params, tx=adam)
        self._greedy = jax.jit(lambda params, observations: network.apply(params, observations).argmax(axis=-1))
        self._update = jax.jit(partial(update, network, settings.discount))

    def greedy(self, observations: Array) -> Array:
        actions: Array = jax.device_get(self._greedy(self.state.params, observations))
        return actions

    def learn(self, batch: Batch) -> None:
        self.state, _ = self._update(self.state, batch)

    def renew_target(self) -> None:
        self.state = self.state.replace(target_params=self.state.params)

    def wait(self) -> None:
        """Until all gradient steps asked for are done."""
        jax.block_until_ready(self.state)


def update(network: QNetwork, discount: float, state: LearnerState, batch: Batch) -> tuple[LearnerState, jax.Array]:
    """One gradient step and its loss."""
    observations, actions, rewards, nexts, terminations = batch
    best = network.apply(state.target_params, nexts).max(axis=-1)
    targets = rewards + (1 - terminations) * discount * best

    def loss(params: Any) -> jax.Array:
        values = network.apply(params, observations)
        return ((values[jnp.arange(len(actions)), actions] - targets) ** 2).mean()

    value, gradients = jax.value_and_grad(loss)(state.params)
    return state.apply_gradients(grads=gradients), value


class Exploring:
    """Epsilon-greedy actions for all lanes, one draw a step as in the original."""

    def __init__(self, agent: Agent, lanes: int, seed: int) -> None:
        self._agent, self._lanes = agent, lanes
        self._random = np.random.default_rng(seed)

    def __call__(self, observations: Array, epsilon: float) -> Array:
        if self._random.random() < epsilon:
            return self._random.integers(2, size=self._lanes)
        return self._agent.greedy(observations)


class Compiling:
    """Seconds JAX spent tracing, lowering and compiling, calls inside calls counted once."""

    def __init__(self) -> None:
        self._spans: list[tuple[float, float]] = []
        self._paused = False
        jax.monitoring.register_event_duration_secs_listener(self._note)

    def _note(self, event: str, seconds: float, **_: Any) -> None:
        if self._paused or not event.startswith("/jax/core/compile/"):
            return
        began = time.perf_counter() - seconds
        self._spans = [span for span in self._spans if span[0] < began]
        self._spans.append((began, seconds))

    @contextmanager
    def paused(self) -> Iterator[None]:
        self._paused = True
        yield
        self._paused = False

    def taken(self) -> float:
        """Seconds since this was asked last."""
        seconds = sum(span[1] for span in self._spans)
        self._spans = []
        return seconds


def solve(request: Request, settings: Settings) -> dict[str, Any]:
    solving, seed = Solving(request), request.seed
    agent, replay, lanes = Agent(settings, seed), Replay(settings.capacity, seed), SyncLanes(1, seed)
    explore, compiling = Exploring(agent, 1, seed), Compiling()
    solving.start()
    for step in range(settings.total_steps):
        replay.add(lanes.step(explore(lanes.observations, settings.epsilon(step))))
        if step > settings.learning_starts:
            if step % settings.train_frequency == 0:
                agent.learn(replay.sample(settings.batch_size))
            if step % settings.target_frequency == 0:
                agent.renew_target()
        if (step + 1) % CHECK_EVERY == 0:
            agent.wait()
            solving.off_the_clock(compiling.taken())
            with compiling.paused():
                if solving.check(step + 1, agent.greedy):
                    break
    return solving.result()


def fixed(request: Request) -> dict[str, Any]:
    agent, replay = Agent(COMMON, request.seed), Replay(COMMON.capacity, request.seed)
    lanes, explore = SyncLanes(1, request.seed), Exploring(agent, 1, request.seed)
    for _ in range(WARM_UP):
        replay.add(lanes.step(explore(lanes.observations, 1.0)))

    def step(number: int) -> None:
        replay.add(lanes.step(explore(lanes.observations, COMMON.end_epsilon)))
        agent.learn(replay.sample(COMMON.batch_size))
        if number % COMMON.target_frequency == 0:
            agent.renew_target()

    for number in range(COMPILED_STEPS):
        step(number)
    agent.wait()
    started, done = time.perf_counter(), 0
    while done < request.steps and time.perf_counter() - started < request.seconds:
        done += 1
        step(done)
    agent.wait()
    return {"steps_per_second": done / (time.perf_counter() - started), "steps": done}


def filled(size: int, seed: int) -> Replay:
    """A replay with the transitions of random actions, of no more than `FILLED` steps, repeated where it is larger."""
    lanes, random = VectorisedLanes(64, seed), np.random.default_rng(seed)
    steps, count = [], 0
    while count < min(size, FILLED):
        steps.append(lanes.step(random.integers(2, size=64)))
        count += len(steps[-1][1])
    replay = Replay(size, seed)
    while replay.size < size:
        for transitions in steps:
            replay.add(transitions)
    return replay


def learner(request: Request) -> dict[str, Any]:
    replay = filled(FILLED, request.seed)
    return {str(size): learner_rate(replay, size, request) for size in request.batch_sizes}


def learner_rate(replay: Replay, batch_size: int, request: Request) -> float:
    agent = Agent(COMMON, request.seed)

    def updates() -> int:
        for _ in range(UPDATES_A_CALL):
            agent.learn(replay.sample(batch_size))
        agent.wait()
        return UPDATES_A_CALL

    return rate(updates, request.seconds)


def collect(request: Request) -> dict[str, Any]:
    """The script takes one environment; with more the figure is that of our extension, and named so."""
    return {f"extended_{lanes}" if lanes > 1 else "1": collect_rate(lanes, request) for lanes in request.lanes}


def collect_rate(count: int, request: Request) -> float:
    """Transitions per second; a reset is none."""
    agent, replay = Agent(COMMON, request.seed), Replay(COMMON.capacity, request.seed)
    lanes: SyncLanes | VectorisedLanes = (
        SyncLanes(1, request.seed) if count == 1 else VectorisedLanes(count, request.seed)
    )
    explore = Exploring(agent, count, request.seed)

    def steps() -> int:
        stored = 0
        for _ in range(CALLS_A_MEASURE):
            transitions = lanes.step(explore(lanes.observations, COMMON.end_epsilon))
            replay.add(transitions)
            stored += len(transitions[1])
        return stored

    return rate(steps, request.seconds)


def replay(request: Request) -> dict[str, Any]:
    """Rates of a full replay, inserting over its oldest transitions."""
    result: dict[str, dict[str, float]] = {"insert": {}, "sample": {}}
    for size in (10_000, 100_000, 1_000_000):
        held = filled(size, request.seed)
        transition = tuple(values[:1] for values in held.sample(1))
        result["insert"][str(size)] = rate(lambda held=held, one=transition: inserts(held, one), request.seconds)
        result["sample"][str(size)] = rate(lambda held=held: samples(held), request.seconds)
    return result


def inserts(held: Replay, transition: Batch) -> int:
    for _ in range(CALLS_A_MEASURE):
        held.add(transition)
    return CALLS_A_MEASURE


def samples(held: Replay) -> int:
    for _ in range(CALLS_A_MEASURE):
        held.sample(BATCH_SIZE)
    return CALLS_A_MEASURE * BATCH_SIZE


if __name__ == "__main__":
    main(
        {
            "solve": partial(solve, settings=QUICK),
            "solve_published": partial(solve, settings=PUBLISHED),
            "fixed": fixed,
            "learner": learner,
            "collect": collect,
            "replay": replay,
        },
        {"jax": jax.__version__, "flax": flax.__version__, "optax": optax.__version__},
    )
