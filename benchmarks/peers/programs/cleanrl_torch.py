"""CleanRL's DQN in PyTorch (`dqn.py` of CleanRL 1.0 and later) on torch 2.13.0.

CleanRL is single-file scripts and no library, so this is its published algorithm, written anew: one process that steps
a gymnasium `SyncVectorEnv`, keeps transitions in a uniform ring buffer in host memory and, every `train_frequency`
steps, takes a gradient step on a sampled batch (mean squared TD error, Adam, hard target copies).

Settings of the work "solve_published" are the defaults of `dqn.py`, which its authors publish for CartPole-v1
(https://docs.cleanrl.dev/rl-algorithms/dqn/#dqnpy): 500 000 steps, learning rate 2.5e-4, buffer 10 000, discount 0.99,
tau 1, target network every 500 steps, batch 128, epsilon 1 to 0.05 over half the steps, learning from step 10 000 on
every 10 steps, network 120-84. They are made for a sure run and not for a short one: epsilon falls for 250 000 steps.
The work "solve" shows the script at its best and changes what the script has options for: learning rate 1e-3, learning
from step 1 000 on every 2 steps, target network every 250, epsilon falling over 10 000 steps. These are our choice and
nobody's publication: the first of five settings looked at, the only one run on each of the seeds 100 to 104 (in JAX),
where it solved on all, in 10 000 to 60 000 steps.

The other works use the sizes common to all peers, epsilon 0.05 and Adam at 1e-3.

Departures, each meant to the peer's advantage: tensors share the sampled arrays' memory instead of copying it, actions
are found without recording gradients, torch runs on one thread (on a machine with other load a second one made it far
slower; on an idle one that is not measured), nothing is logged, and "collect" with more than one environment steps
gymnasium's own vectorised CartPole, the original being limited to one environment.
"""

import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import nn

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

STEPS_BEFORE = 50  # steps of the fixed work before its clock starts
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
            np.zeros(capacity, np.int64),
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


def network(hidden_units: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    inputs = 4
    for units in hidden_units:
        layers += [nn.Linear(inputs, units), nn.ReLU()]
        inputs = units
    return nn.Sequential(*layers, nn.Linear(inputs, 2))


class Agent:
    """The network, its target and the optimizer."""

    def __init__(self, settings: Settings, seed: int) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(seed)
        self._network, self._target = network(settings.hidden_units), network(settings.hidden_units)
        self.renew_target()
        self.optimizer = torch.optim.Adam(self._network.parameters(), lr=settings.learning_rate)
        self._discount = settings.discount

    @torch.no_grad()
    def greedy(self, observations: Array) -> Array:
        actions: Array = self._network(torch.from_numpy(observations)).argmax(dim=1).numpy()
        return actions

    def learn(self, batch: Batch) -> None:
        observations, actions, rewards, nexts, terminations = (torch.from_numpy(field) for field in batch)
        with torch.no_grad():
            best = self._target(nexts).max(dim=1).values
            targets = rewards + (1 - terminations) * self._discount * best
        values = self._network(observations).gather(1, actions[:, None])[:, 0]
        loss = nn.functional.mse_loss(values, targets)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def renew_target(self) -> None:
        self._target.load_state_dict(self._network.state_dict())


class Exploring:
    """Epsilon-greedy actions for all lanes, one draw a step as in the original."""

    def __init__(self, agent: Agent, lanes: int, seed: int) -> None:
        self._agent, self._lanes = agent, lanes
        self._random = np.random.default_rng(seed)

    def __call__(self, observations: Array, epsilon: float) -> Array:
        if self._random.random() < epsilon:
            return self._random.integers(2, size=self._lanes)
        return self._agent.greedy(observations)


def solve(request: Request, settings: Settings) -> dict[str, Any]:
    solving, seed = Solving(request), request.seed
    agent, replay, lanes = Agent(settings, seed), Replay(settings.capacity, seed), SyncLanes(1, seed)
    explore = Exploring(agent, 1, seed)
    solving.start()
    for step in range(settings.total_steps):
        replay.add(lanes.step(explore(lanes.observations, settings.epsilon(step))))
        if step > settings.learning_starts:
            if step % settings.train_frequency == 0:
                agent.learn(replay.sample(settings.batch_size))
            if step % settings.target_frequency == 0:
                agent.renew_target()
        if (step + 1) % CHECK_EVERY == 0 and solving.check(step + 1, agent.greedy):
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

    for number in range(STEPS_BEFORE):
        step(number)
    started, done = time.perf_counter(), 0
    while done < request.steps and time.perf_counter() - started < request.seconds:
        done += 1
        step(done)
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
        {"torch": torch.__version__, "gymnasium": gymnasium.__version__},
    )
