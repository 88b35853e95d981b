"""Every environment step reaches the learner, once: checked on what it would draw from a real replay."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from environments_for_tests import LANES_APART, episode_length, is_truncation, reward_of
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from agents import Specs
from agents.losses import n_step_return
from pipeline.collector import Collector, seed_of
from pipeline.frames import LAST
from pipeline.sections import Experiment
from pipeline.stacking import stacked

GAMMA = 0.5
Step = tuple[int, int, int]
"""Of an environment: lane, episode, step within it."""


def lanes_of(experiment: Experiment) -> list[int]:
    """What the lanes of `Counting` call themselves."""
    return [(seed_of(experiment, 2, 0, 0) + lane) % LANES_APART for lane in range(experiment.collect.lanes)]


def steps_of(lane: int, vector_steps: int) -> list[Step]:
    """The steps that a lane of `Counting` takes in so many vector steps, resets left out."""
    steps, episode, step = [], 0, 0
    for _ in range(vector_steps):
        if step == episode_length(lane, episode):
            episode, step = episode + 1, 0
        else:
            steps.append((lane, episode, step))
            step += 1
    return steps


def everything_in(server: Any) -> dict[str, Any]:
    """The transitions of each item of the replay, once, by field: NumPy arrays [transitions, T, ...]."""
    items: dict[int, list[tuple[Any, ...]]] = {}
    stored = server.info().current_size
    for sample in server.dataset().as_numpy_iterator():
        trajectory = sample.trajectory
        fields = trajectory.observation, trajectory.step_type, trajectory.reward, trajectory.discount, trajectory.action
        flat = [field.reshape(-1, *field.shape[2:]) for field in fields]
        for position, key in enumerate(sample.keys):
            items[int(key)] = [tuple(leaf[i] for leaf in flat) for i in range(position, len(flat[0]), len(sample.keys))]
        if len(items) == stored:
            break
    transitions = [transition for item in items.values() for transition in item]
    names = ("observation", "step_type", "reward", "discount", "action")
    columns = zip(*transitions, strict=True)
    return {name: np.stack(column) for name, column in zip(names, columns, strict=True)}


def run(collector: Collector, steps: int) -> None:
    """So many vector steps and a clean stop; the writer's book is right at all times."""
    for _ in range(steps):
        collector.step()
        assert collector.confirm(lambda: True)
        counts = collector.counts
        assert 0 <= counts.transitions <= counts.begun
    collector.complete()
    begun = collector.counts.begun
    assert collector.confirm(lambda: True, everything=True)
    assert (collector.counts.begun, collector.counts.transitions) == (begun, begun)


def expected(transition: Step, taken: set[Step], actions: dict[Step, int], n_step: int) -> tuple[float, float, Step]:
    """Return, discount and the frame to bootstrap from of a transition, one step at a time."""
    lane, episode, step = transition
    total, product = 0.0, 1.0
    for _ in range(n_step):
        if (lane, episode, step) not in taken:
            break  # the episode's end, or the collector's
        total += product * reward_of(lane, episode, step, actions[lane, episode, step])
        step += 1
        ended = step == episode_length(lane, episode)
        product *= 0.0 if ended and not is_truncation(episode) else GAMMA
    return total, product, (lane, episode, step)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lanes=st.sampled_from([1, 2, 4]),
    groups=st.sampled_from([1, 2, 4]),
    steps_per_item=st.sampled_from([1, 2, 4]),
    n_step=st.integers(1, 4),
    frames=st.integers(1, 3),
    vector_steps=st.integers(1, 14),
)
@example(lanes=4, groups=1, steps_per_item=1, n_step=1, frames=1, vector_steps=20)
@example(lanes=4, groups=2, steps_per_item=4, n_step=3, frames=3, vector_steps=1)
@example(lanes=1, groups=1, steps_per_item=4, n_step=4, frames=2, vector_steps=8)
def test_a_clean_stop_stores_each_environment_step_once(
    serve: Any,
    make_experiment: Callable[..., Experiment],
    publish: Any,
    counting_specs: Specs,
    lanes: int,
    groups: int,
    steps_per_item: int,
    n_step: int,
    frames: int,
    vector_steps: int,
) -> None:
    per_item = max(1, lanes // groups)
    experiment = make_experiment(
        f"collect.lanes={lanes}",
        f"replay.lanes_per_item={per_item}",
        f"replay.steps_per_item={steps_per_item}",
        f"agent.n_step={n_step}",
        f"environment.frame_stack={frames}",
        f"learner.batch_size={2 * per_item * steps_per_item}",
        "replay.min_size=1",
    )
    server = serve(experiment, counting_specs)
    variables = publish(stacked(counting_specs, frames))
    collector = Collector(experiment, counting_specs, 0, "p", server.address, variables)
    run(collector, vector_steps)
    drawn = everything_in(server)
    collector.close()

    taken = [step for lane in lanes_of(experiment) for step in steps_of(lane, vector_steps)]
    assert collector.environment_steps == len(taken)
    valid = drawn["step_type"][:, 0] != LAST
    newest = drawn["observation"][..., -4:].astype(int)
    starts = [(int(lane), int(episode), int(step)) for lane, episode, step, _ in newest[valid, 0]]
    assert Counter(starts) == Counter(taken)

    actions = dict(zip(starts, drawn["action"][valid, 0].tolist(), strict=True))
    folded = n_step_return(drawn["step_type"], drawn["reward"], drawn["discount"], GAMMA)
    rows = zip(starts, folded.reward.numpy()[valid], folded.discount.numpy()[valid], strict=True)
    bootstraps = newest[np.arange(len(newest)), folded.bootstrap_index.numpy()][valid]
    for (start, reward, discount), bootstrap in zip(rows, bootstraps, strict=True):
        total, product, frame = expected(start, set(taken), actions, n_step)
        assert (reward, discount) == pytest.approx((total, product), rel=1e-6)
        if product:
            assert tuple(bootstrap[:3].tolist()) == frame
    for start, stack in zip(starts, drawn["observation"][valid, 0].reshape(-1, frames, 4), strict=True):
        ages = [frames - 1 - position for position in range(frames)]
        steps = [observation[2] if age <= start[2] else None for age, observation in zip(ages, stack, strict=True)]
        assert steps == [start[2] - age if age <= start[2] else None for age in ages]
        assert not any(observation.any() for age, observation in zip(ages, stack, strict=True) if age > start[2])
