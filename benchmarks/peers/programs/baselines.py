"""What the programs of Stable-Baselines3 and SBX share: settings, environments, timed training.

SBX is built on Stable-Baselines3, which its virtual environment has, too.
"""

import time
from collections.abc import Callable
from typing import Any

import gymnasium
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from benchmarks.peers.works import BATCH_SIZE, ENVIRONMENT, REPLAY_CAPACITY, WARM_UP, Request

ZOO_STEPS = 50_000
ENDLESS = 1_000_000_000  # environment steps: the callbacks end training
QUIET = 1_000_000_000  # episodes between two logs
TRAINING_WARM_UP = 50

ZOO: dict[str, Any] = {
    "learning_rate": 2.3e-3,
    "batch_size": 64,
    "buffer_size": 100_000,
    "learning_starts": 1_000,
    "gamma": 0.99,
    "target_update_interval": 10,
    "train_freq": 256,
    "gradient_steps": 128,
    "exploration_fraction": 0.16 * ZOO_STEPS / ENDLESS,
    "exploration_final_eps": 0.04,
}
COMMON: dict[str, Any] = {
    "learning_rate": 1e-3,
    "batch_size": BATCH_SIZE,
    "buffer_size": REPLAY_CAPACITY,
    "gamma": 0.99,
    "target_update_interval": 500,
    "exploration_initial_eps": 0.05,
    "exploration_final_eps": 0.05,
}


class Until(BaseCallback):
    """Ends training as soon as a function of the environment steps says so."""

    def __init__(self, ended: Callable[[int], bool]) -> None:
        super().__init__()
        self._ended = ended

    def _on_step(self) -> bool:
        return not self._ended(self.num_timesteps)


class Stopwatch:
    """Times the environment steps after the first `skipped`: at most `steps` of them, for at most `seconds`."""

    def __init__(self, skipped: int, steps: int, seconds: float) -> None:
        self._skipped, self._limit, self._seconds = skipped, steps, seconds
        self._started = 0.0
        self._first = 0
        self.steps = 0
        self.passed = 0.0

    def ended(self, environment_steps: int) -> bool:
        if environment_steps < self._skipped:
            return False
        if not self._started:
            self._started, self._first = time.perf_counter(), environment_steps
            return False
        self.passed = time.perf_counter() - self._started
        self.steps = environment_steps - self._first
        return self.steps >= self._limit or self.passed >= self._seconds

    @property
    def rate(self) -> float:
        """Environment steps per second."""
        return self.steps / self.passed


def environments(lanes: int) -> DummyVecEnv:
    return DummyVecEnv([lambda: gymnasium.make(ENVIRONMENT, disable_env_checker=True) for _ in range(lanes)])


def fixed(request: Request, build: Callable[..., Any], optimizer_steps: Callable[[Any], int]) -> dict[str, Any]:
    """The work "fixed" by a model that `build` makes, its gradient steps counted by `optimizer_steps`."""
    model = build(request, learning_starts=WARM_UP, train_freq=1, gradient_steps=1, **COMMON)
    stopwatch = Stopwatch(WARM_UP + TRAINING_WARM_UP, request.steps, request.seconds)
    model.learn(ENDLESS, Until(stopwatch.ended), log_interval=QUIET)
    # the step that ends the run isn't trained on, nor are those up to WARM_UP
    assert optimizer_steps(model) == stopwatch.steps + TRAINING_WARM_UP - 1
    return {"steps_per_second": stopwatch.rate, "steps": stopwatch.steps}


def collected_per_second(request: Request, build: Callable[..., Any], lanes: int, warm_up: int) -> float:
    """Environment steps per second after so many to warm up, none of which is learned from."""
    model = build(request, lanes, learning_starts=0, train_freq=64, gradient_steps=0, **COMMON)
    stopwatch = Stopwatch(warm_up, ENDLESS, request.seconds)
    model.learn(ENDLESS, Until(stopwatch.ended), log_interval=QUIET)
    return stopwatch.rate
