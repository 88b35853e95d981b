"""What CleanRL's two programs share: settings, replay, environments, exploration, and the works but their agents.

CleanRL's scripts repeat all of it in each file, alike to the letter but for the dtype of actions.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import gymnasium
import numpy as np
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
    rate,
)

Array = np.ndarray[Any, Any]
Batch = tuple[Array, Array, Array, Array, Array]
"""Observations, actions, rewards, next observations and terminations."""

STEPS_BEFORE = 50  # of the fixed work, before its clock starts: JAX compiles in them
UPDATES_A_CALL = 100
CALLS_A_MEASURE = 100


@dataclass(frozen=True)
class Settings:
    """By default those that CleanRL's authors publish for CartPole-v1."""

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

    def __init__(self, capacity: int, seed: int, actions: type[np.integer[Any]]) -> None:
        self._fields = (
            np.zeros((capacity, 4), np.float32),
            np.zeros(capacity, actions),
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


class Agent(Protocol):
    """The network, its target and the optimizer."""

    def greedy(self, observations: Array) -> Array: ...

    def learn(self, batch: Batch) -> None: ...

    def renew_target(self) -> None: ...

    def wait(self) -> None:
        """Until all gradient steps asked for are done."""


class Exploring:
    """Epsilon-greedy actions for all lanes, one draw a step as in the original."""

    def __init__(self, agent: Agent, lanes: int, seed: int) -> None:
        self._agent, self._lanes = agent, lanes
        self._random = np.random.default_rng(seed)

    def __call__(self, observations: Array, epsilon: float) -> Array:
        if self._random.random() < epsilon:
            return self._random.integers(2, size=self._lanes)
        return self._agent.greedy(observations)


class Recipe:
    """The works.

    Args:
      make: an agent of these settings and this seed.
      actions: their dtype in the replay.
    """

    def __init__(self, make: Callable[[Settings, int], Agent], actions: type[np.integer[Any]]) -> None:
        self._make, self._actions = make, actions

    def works(self) -> dict[str, Callable[[Request], dict[str, Any]]]:
        """All of them by name."""
        return {
            "solve": self.solve,
            "fixed": self.fixed,
            "learner": self.learner,
            "collect": self.collect,
        }

    def start(self, solving: Solving) -> None:
        """Starts the clock of "solve"."""
        solving.start()

    def check(self, solving: Solving, environment_steps: int, agent: Agent) -> bool:
        """Whether training is over: evaluates off the clock."""
        return solving.check(environment_steps, agent.greedy)

    def solve(self, request: Request) -> dict[str, Any]:
        solving, settings, seed = Solving(request), QUICK, request.seed
        agent, replay, lanes = self._make(settings, seed), self._replay(settings.capacity, seed), SyncLanes(1, seed)
        explore = Exploring(agent, 1, seed)
        self.start(solving)
        for step in range(settings.total_steps):
            replay.add(lanes.step(explore(lanes.observations, settings.epsilon(step))))
            if step > settings.learning_starts:
                if step % settings.train_frequency == 0:
                    agent.learn(replay.sample(settings.batch_size))
                if step % settings.target_frequency == 0:
                    agent.renew_target()
            if (step + 1) % CHECK_EVERY == 0 and self.check(solving, step + 1, agent):
                break
        return solving.result()

    def fixed(self, request: Request) -> dict[str, Any]:
        agent, replay = self._make(COMMON, request.seed), self._replay(COMMON.capacity, request.seed)
        lanes, explore = SyncLanes(1, request.seed), Exploring(agent, 1, request.seed)
        for _ in range(WARM_UP):
            replay.add(lanes.step(explore(lanes.observations, 1.0)))

        def step(number: int) -> None:
            replay.add(lanes.step(explore(lanes.observations, COMMON.end_epsilon)))
            agent.learn(replay.sample(COMMON.batch_size))
            if number % COMMON.target_frequency == 0:
                agent.renew_target()

        for number in range(STEPS_BEFORE):
            step(number)
        agent.wait()
        started, done = time.perf_counter(), 0
        while done < request.steps and time.perf_counter() - started < request.seconds:
            done += 1
            step(done)
        agent.wait()
        return {"steps_per_second": done / (time.perf_counter() - started), "steps": done}

    def learner(self, request: Request) -> dict[str, Any]:
        replay = self._filled(FILLED, request.seed)
        return {str(size): self._learner_rate(replay, size, request) for size in request.batch_sizes}

    def collect(self, request: Request) -> dict[str, Any]:
        """The script takes one environment; with more the figure is that of our extension, and named so."""
        return {
            f"extended_{lanes}" if lanes > 1 else "1": self._collect_rate(lanes, request) for lanes in request.lanes
        }

    def _replay(self, capacity: int, seed: int) -> Replay:
        return Replay(capacity, seed, self._actions)

    def _filled(self, size: int, seed: int) -> Replay:
        """A replay with transitions of random actions, of no more than `FILLED` steps, repeated where it is larger."""
        lanes, random = VectorisedLanes(64, seed), np.random.default_rng(seed)
        steps, count = [], 0
        while count < min(size, FILLED):
            steps.append(lanes.step(random.integers(2, size=64)))
            count += len(steps[-1][1])
        replay = self._replay(size, seed)
        while replay.size < size:
            for transitions in steps:
                replay.add(transitions)
        return replay

    def _learner_rate(self, replay: Replay, batch_size: int, request: Request) -> float:
        agent = self._make(COMMON, request.seed)

        def updates() -> int:
            for _ in range(UPDATES_A_CALL):
                agent.learn(replay.sample(batch_size))
            agent.wait()
            return UPDATES_A_CALL

        return rate(updates, request.seconds)

    def _collect_rate(self, count: int, request: Request) -> float:
        """Transitions per second; a reset is none."""
        agent, replay = self._make(COMMON, request.seed), self._replay(COMMON.capacity, request.seed)
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
