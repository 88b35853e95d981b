"""The works, as every peer's program meets them: sizes, clock, evaluation rule, command line and the closing JSON line.

Runs in the peers' virtual environments: needs NumPy and gymnasium, and nothing of ours.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

ENVIRONMENT = "CartPole-v1"
HIDDEN_UNITS = (128, 64)
BATCH_SIZE = 64
REPLAY_CAPACITY = 100_000
FILLED = 20_000  # transitions in the replay of the works "learner"
WARM_UP = 1_000  # environment steps before the first gradient step of the fixed work
CHECK_EVERY = 2_500  # environment steps between two evaluations of the work "solve"
SOLVED_AT = 475.0
EVALUATION_EPISODES = 20

Policy = Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]
"""Greedy actions `[N]` for observations `[N, 4]` float32."""


@dataclass(frozen=True)
class Request:
    """What one run of a program is asked for.

    Attributes:
      work: "solve", "fixed", "learner", "collect" or "replay".
      seed: of environments, weights and exploration, as far as the peer can be seeded.
      steps: gradient steps of the fixed work.
      seconds: of one measurement ("learner", "collect"); of training after which "solve" and "fixed" give up.
      batch_sizes: of the work "learner", one measurement each.
      lanes: environments of the work "collect", one measurement each.
      started: `time.time()` at which the process was started: what came before training is start-up.
    """

    work: str
    seed: int
    steps: int
    seconds: float
    batch_sizes: tuple[int, ...]
    lanes: tuple[int, ...]
    started: float


class Solving:
    """The clock and the judge of the work "solve".

    A program builds what it needs, calls `start`, trains, and calls `check` every `CHECK_EVERY` environment steps;
    the evaluation is off the clock. Training ends when `check` returns True.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self._startup = 0.0
        self._trained = 0.0
        self._resumed: float | None = None
        self._steps, self._mean = 0, 0.0

    def start(self) -> None:
        """Training begins now: all before was start-up."""
        self._startup = time.time() - self._request.started
        self._resumed = time.perf_counter()

    def off_the_clock(self, seconds: float) -> None:
        """Moves seconds of compiling out of the training time into start-up."""
        self._trained -= seconds
        self._startup += seconds

    def check(self, environment_steps: int, policy: Policy) -> bool:
        """Evaluates the greedy policy off the clock; True when solved or out of time."""
        assert self._resumed is not None, "start() comes first"
        self._trained += time.perf_counter() - self._resumed
        self._steps = environment_steps
        self._mean = greedy_mean(policy, seed=1_000_000 + self._request.seed)
        self._resumed = time.perf_counter()
        return self.solved or self._trained > self._request.seconds

    @property
    def solved(self) -> bool:
        """Whether the last evaluation reached the goal."""
        return self._mean >= SOLVED_AT

    def result(self) -> dict[str, Any]:
        """What the runner is told."""
        return {
            "solved": self.solved,
            "train_seconds": round(self._trained, 3),
            "startup_seconds": round(self._startup, 3),
            "environment_steps": self._steps,
            "mean_return": self._mean,
        }


def greedy_mean(policy: Policy, seed: int) -> float:
    """Mean return of the first episode of each of `EVALUATION_EPISODES` environments."""
    environments = gymnasium.make_vec(ENVIRONMENT, num_envs=EVALUATION_EPISODES, vectorization_mode="sync")
    observations, _ = environments.reset(seed=seed)
    returns = np.zeros(EVALUATION_EPISODES)
    running = np.ones(EVALUATION_EPISODES, bool)
    while running.any():
        actions = np.asarray(policy(observations.astype(np.float32))).astype(np.int64)
        observations, rewards, terminated, truncated, _ = environments.step(actions)
        returns += rewards * running
        running &= ~(terminated | truncated)
    environments.close()
    return float(returns.mean())


def rate(call: Callable[[], int], seconds: float) -> float:
    """Units per second of a call repeated for that long; one call before warms up."""
    call()
    started, units = time.perf_counter(), 0
    while (passed := time.perf_counter() - started) < seconds:
        units += call()
    return units / passed


def main(works: Mapping[str, Callable[[Request], dict[str, Any]]], versions: Mapping[str, str]) -> None:
    """Runs the work asked for and prints its result as the last line of standard output, one line of JSON.

    A work the peer has no form of is left out of `works`; asking for it prints {"missing": reason}.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--batch_sizes", default="64,256,1024")
    parser.add_argument("--lanes", default="1,16,64")
    parser.add_argument("--started", type=float, default=time.time())
    given = parser.parse_args()
    request = Request(
        given.work,
        given.seed,
        given.steps,
        given.seconds,
        tuple(int(size) for size in given.batch_sizes.split(",")),
        tuple(int(lanes) for lanes in given.lanes.split(",")),
        given.started,
    )
    work = works.get(request.work)
    result = work(request) if work else {"missing": "this peer has no such form"}
    print(json.dumps({**result, "versions": dict(versions)}), flush=True)
    os._exit(0)  # some peers' threads keep their process from ending
