"""benchmarks.learning.mountain_car_optimum: the task's own equations, and the starts that evaluations have."""

from typing import Any

import gymnasium
import numpy as np

from benchmarks.learning.mountain_car_optimum import Grid, starts, step
from pipeline import environments
from pipeline.evaluator.evaluator import _MOST_LANES
from pipeline.experiment.config import load


def test_a_step_is_that_of_the_environment() -> None:
    environment: Any = gymnasium.make("MountainCar-v0").unwrapped
    random = np.random.default_rng(0)
    for _ in range(300):
        state = np.array([random.uniform(-1.2, 0.5), random.uniform(-0.07, 0.07)])
        environment.state = tuple(state)
        action = int(random.integers(3))
        observation, _, terminated, _, _ = environment.step(action)
        position, velocity, top = step(state[:1], state[1:], action)
        np.testing.assert_allclose(observation, (position[0], velocity[0]), rtol=1e-6, atol=1e-8)
        assert bool(top[0]) == terminated


def test_episodes_begin_where_those_of_an_evaluation_do() -> None:
    experiment = load("mountaincar")
    environment = environments.make(experiment.evaluation_environment, _MOST_LANES, 0.01)
    seen = environment.reset(7)
    np.testing.assert_allclose(starts(100, 7)[:_MOST_LANES], seen.observation[""][:, 0], rtol=1e-6)
    environment.close()


def test_a_fine_grid_takes_no_more_steps_than_a_coarse_one_and_both_less_than_swinging() -> None:
    drawn = np.linspace(-0.6, -0.4, 41)
    coarse, fine = (Grid(*size).play(drawn).mean() for size in ((41, 31), (121, 81)))
    swinging, playing = np.zeros_like(drawn), np.ones(drawn.shape, bool)
    position, velocity = drawn.copy(), np.zeros_like(drawn)
    while playing.any():  # push to where it is going
        (left, right) = (step(position, velocity, action) for action in (0, 2))
        position, velocity, top = (np.where(velocity < 0, *parts) for parts in zip(left, right, strict=True))
        swinging += playing
        playing &= ~top
    assert fine <= coarse
    assert coarse < swinging.mean() - 10
    assert 95 < fine < 100
