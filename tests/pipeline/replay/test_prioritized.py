"""Prioritised replay with a real Reverb server: what is drawn how often, its weights, and who sets priorities."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from replay_writing import write_frames

from agents import Specs, importance
from agents.initial_priorities import td_errors
from agents.priorities import SMALLEST
from pipeline.collector.collector import Collector
from pipeline.experiment.config import parse
from pipeline.experiment.sections import Experiment
from pipeline.replay.embedded import EmbeddedReplay
from pipeline.replay.frames import LAST, FrameLayout
from pipeline.replay.writer import FrameWriter

Serve = Callable[..., EmbeddedReplay]
MakeExperiment = Callable[..., Experiment]
PRIORITIZED = ("replay.prioritized=true", "learner.batch_size=64", "learner.steps_per_call=16")
ITEMS = 20


def numbered(layout: FrameLayout, lanes: int, steps: int) -> Any:
    """Frames [steps, lanes] whose action is the lane and whose `gradient_steps` is the step."""
    frames = np.stack([layout.empty(lanes) for _ in range(steps)])
    frames["action"] = np.arange(lanes)
    frames["gradient_steps"] = np.arange(steps)[:, None]
    return frames


def drawn_from(server: EmbeddedReplay, calls: int) -> Any:
    """Start step, lane and relative probability of the transitions of some calls, each [transitions], and the keys."""
    samples = list(server.dataset().take(calls).as_numpy_iterator())
    steps = np.concatenate([sample.gradient_steps.ravel() for sample in samples])
    lanes = np.concatenate([sample.trajectory.action[:, :, 0].ravel() for sample in samples])
    relative = np.concatenate([sample.relative_probability.ravel() for sample in samples])
    return steps, lanes, relative, samples


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_items_are_drawn_by_priority_and_their_probabilities_are_told(
    serve: Serve, make_experiment: MakeExperiment, counting_specs: Specs, alpha: float
) -> None:
    experiment = make_experiment(*PRIORITIZED, "collect.lanes=1", f"replay.priority_exponent={alpha}")
    layout, server = FrameLayout(counting_specs), serve(experiment, counting_specs)
    priorities = np.random.default_rng(0).uniform(0.1, 5.0, ITEMS).astype(np.float32)
    write_frames(server, experiment, layout, numbered(layout, 1, ITEMS + 1), priorities[:, None])

    steps, _, relative, _ = drawn_from(server, 20)

    chance = priorities**alpha / (priorities**alpha).sum()
    np.testing.assert_allclose(relative, ITEMS * chance[steps], rtol=1e-4)
    counts, expected = np.bincount(steps, minlength=ITEMS), len(steps) * chance
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert statistic < ITEMS - 1 + 6 * np.sqrt(2 * (ITEMS - 1))
    if alpha:
        assert np.ptp(counts) > len(steps) / ITEMS  # uniform drawing would not pass for it


def test_the_fully_weighted_mean_is_that_of_uniform_drawing(
    serve: Serve, make_experiment: MakeExperiment, counting_specs: Specs
) -> None:
    experiment = make_experiment(*PRIORITIZED, "collect.lanes=1", "replay.priority_exponent=0.8")
    layout, server = FrameLayout(counting_specs), serve(experiment, counting_specs)
    random = np.random.default_rng(1)
    priorities = random.uniform(0.1, 5.0, ITEMS).astype(np.float32)
    gradients = random.normal(size=ITEMS) + priorities  # related to the priorities, as a gradient is
    write_frames(server, experiment, layout, numbered(layout, 1, ITEMS + 1), priorities[:, None])

    steps, _, relative, _ = drawn_from(server, 40)

    weights = importance.weights_of(relative, 1.0, np.full(relative.shape, True)).numpy()
    weighted = (weights * gradients[steps]).sum() / weights.sum()
    error = gradients.std() / np.sqrt(len(steps)) * (weights.max() / weights.mean())
    assert abs(weighted - gradients.mean()) < 5 * error
    assert abs(gradients[steps].mean() - gradients.mean()) > 10 * error  # without weights it is another mean


@pytest.mark.parametrize(("lanes_per_item", "steps_per_item"), [(1, 1), (4, 1), (2, 4)])
def test_an_item_takes_the_mean_of_its_transitions_priorities(
    serve: Serve, make_experiment: MakeExperiment, counting_specs: Specs, lanes_per_item: int, steps_per_item: int
) -> None:
    experiment = make_experiment(
        *PRIORITIZED,
        f"replay.lanes_per_item={lanes_per_item}",
        f"replay.steps_per_item={steps_per_item}",
        "replay.priority_exponent=1.0",
    )
    layout, server, steps = FrameLayout(counting_specs), serve(experiment, counting_specs), 16
    priorities = np.random.default_rng(2).uniform(0.5, 5.0, (steps, 4)).astype(np.float32)
    write_frames(server, experiment, layout, numbered(layout, 4, steps + 1), priorities)

    def of_items(values: Any) -> Any:
        """Values [steps, lanes] replaced by the mean of their item's."""
        groups = values.reshape(steps // steps_per_item, steps_per_item, 4 // lanes_per_item, lanes_per_item)
        return np.broadcast_to(groups.mean(axis=(1, 3), keepdims=True), groups.shape).reshape(steps, 4)

    started, lanes, relative, samples = drawn_from(server, 1)
    expected = of_items(priorities)
    np.testing.assert_allclose(relative, (expected / expected.mean())[started, lanes], rtol=1e-4)

    # The learner's write-back: what each transition of the call turned out to be worth.
    learned = np.random.default_rng(3).uniform(0.5, 5.0, (steps, 4)).astype(np.float32)
    (sample,) = samples
    server.give_priorities(sample, learned[sample.gradient_steps, sample.trajectory.action[:, :, 0]].astype(np.float32))
    seen = np.zeros((steps, 4), bool)
    seen[started, lanes] = True
    expected = np.where(of_items(seen) > 0, of_items(learned), expected)
    started, lanes, relative, _ = drawn_from(server, 1)
    np.testing.assert_allclose(relative, (expected / expected.mean())[started, lanes], rtol=1e-4)


def test_no_priority_poisons_the_table(serve: Serve, make_experiment: MakeExperiment, counting_specs: Specs) -> None:
    experiment = make_experiment(*PRIORITIZED, "collect.lanes=1", "replay.priority_exponent=1.0", "replay.min_size=4")
    layout, server = FrameLayout(counting_specs), serve(experiment, counting_specs)
    write_frames(server, experiment, layout, numbered(layout, 1, 5), np.full((4, 1), np.float32(2.0)))
    _, _, _, (sample,) = drawn_from(server, 1)
    keys, first = np.unique(sample.keys, return_index=True)
    assert len(keys) == 4
    start_of = dict(zip(keys, sample.gradient_steps.ravel()[first], strict=True))
    server.give_priorities(sample._replace(keys=keys), np.float32([[0.0, np.nan, np.inf, 3.0]]))
    server.give_priorities(sample._replace(keys=np.uint64([1, 2])), np.float32([[1.0, 1.0]]))  # of none
    steps, _, relative, _ = drawn_from(server, 5)
    assert np.isfinite(relative).all()
    assert set(steps) == {start_of[keys[3]]}, "what is no number is as good as never drawn again"
    server.give_priorities(sample._replace(keys=keys[3:]), np.float32([[0.0]]))
    steps, _, _, _ = drawn_from(server, 5)
    assert set(steps) == set(start_of.values()), "all alike"
    assert SMALLEST < 1e-3


def test_new_items_take_the_priority_published_unless_told_their_own(
    serve: Serve, make_experiment: MakeExperiment, counting_specs: Specs
) -> None:
    experiment = make_experiment(*PRIORITIZED, "collect.lanes=1", "replay.priority_exponent=1.0", "replay.min_size=4")
    layout, server = FrameLayout(counting_specs), serve(experiment, counting_specs)
    writer = FrameWriter.of(experiment, layout, server.address)
    for step, frame in enumerate(numbered(layout, 1, 5)):
        writer.initial_priority = float(step)  # item k is complete with frame k + 1
        writer.append(frame)
        assert writer.confirm(lambda: True)
    assert writer.confirm(lambda: True, everything=True)
    steps, _, relative, _ = drawn_from(server, 1)
    np.testing.assert_allclose(relative, (steps + 1) / 2.5, rtol=1e-5)


@pytest.mark.parametrize("n_step", [1, 3])
def test_a_collector_gives_new_items_its_own_td_errors(
    serve: Serve, make_experiment: MakeExperiment, counting_specs: Specs, publish: Any, draw: Any, n_step: int
) -> None:
    experiment = make_experiment(
        *PRIORITIZED,
        "replay.initial_priority='td_error'",
        "replay.priority_exponent=1.0",
        f"agent.n_step={n_step}",
        "agent.discount=0.9",
    )
    server = serve(experiment, counting_specs)
    collector = Collector(experiment, counting_specs, 0, "process", server.address, publish(counting_specs, prefers=1))
    for _ in range(30):
        collector.step()
        assert collector.confirm(lambda: True)
    assert collector.confirm(lambda: True, everything=True)
    samples = list(server.dataset().take(2).as_numpy_iterator())
    flat = {
        name: np.concatenate([getattr(sample.trajectory, name).reshape(-1, n_step + 1) for sample in samples])
        for name in ("reward", "discount", "step_type", "action")
    }
    relative = np.concatenate([sample.relative_probability.ravel() for sample in samples])
    # The published network gives action 1 the value 1 and all others 0, whatever it sees.
    expected = td_errors(
        (flat["action"] == 1).astype(np.float32).T,
        np.ones_like(flat["reward"]).T,
        flat["reward"].T,
        0.9 * flat["discount"].T,
        (flat["step_type"] == LAST).T,
    )
    expected = np.maximum(expected, SMALLEST)
    scale = relative[0] / expected[0]
    np.testing.assert_allclose(relative, scale * expected, rtol=1e-3)
    assert np.ptp(expected) > 0.5
    collector.close()


def test_exact_priorities_are_the_default() -> None:
    experiment = parse("", ("replay.prioritized=true", "collect.lanes=16"))
    assert (experiment.lanes_per_item, experiment.steps_per_item, experiment.windows_per_item) == (1, 1, 1)
    several = parse("", ("replay.prioritized=true", "collect.lanes=16", "replay.lanes_per_item=16"))
    assert (several.lanes_per_item, several.steps_per_item) == (16, 1)


def priorities_in(server: Any, layout: FrameLayout) -> dict[int, float]:
    """Of the items that some draws give, by key."""
    drawn = server.client.sample(layout.table, 300, emit_timesteps=False)
    return {item.info.key: item.info.priority for item in drawn}


def test_a_checkpoint_goes_on_with_another_exponent_and_its_priorities(
    serve: Serve, make_experiment: MakeExperiment, counting_specs: Specs
) -> None:
    experiment = make_experiment(*PRIORITIZED)
    server, layout = serve(experiment, counting_specs), FrameLayout.of(experiment, counting_specs)
    frames = np.stack([layout.empty(experiment.collect.lanes) for _ in range(40)])
    write_frames(server, experiment, layout, frames)
    sample = next(iter(server.dataset()))
    server.give_priorities(sample, np.full(sample.relative_probability.shape, 9.0, np.float32))
    stored = {
        item.info.key: item.info.priority for item in server.client.sample(layout.table, 200, emit_timesteps=False)
    }
    assert set(stored.values()) >= {9.0}
    restored = serve(
        make_experiment(*PRIORITIZED, "replay.priority_exponent=0.3"), counting_specs, restore_from=server.save()
    )
    assert restored.info().sampler_options.prioritized.priority_exponent == 0.3
    assert restored.info().current_size == server.info().current_size
    drawn = {
        item.info.key: item.info.priority for item in restored.client.sample(layout.table, 200, emit_timesteps=False)
    }
    assert {key: stored[key] for key in drawn if key in stored} == {key: drawn[key] for key in drawn if key in stored}


def test_little_is_drawn_before_the_call_that_it_is_for_is_asked_for(
    serve: Serve, make_experiment: MakeExperiment, counting_specs: Specs
) -> None:
    experiment = make_experiment(*PRIORITIZED, "collect.lanes=1", "replay.samples_per_insert=1e6")
    layout, server = FrameLayout(counting_specs), serve(experiment, counting_specs)
    write_frames(server, experiment, layout, numbered(layout, 1, ITEMS + 1), np.ones((ITEMS, 1), np.float32))
    samples = server.samples()
    next(samples)
    drawn = [0]
    while len(drawn) < 10 or len(set(drawn[-10:])) > 1:  # until nothing more is drawn
        drawn.append(server.tally().sampled)
        time.sleep(0.05)
    ahead = drawn[-1] - experiment.items_per_call
    assert ahead <= 0.75 * experiment.items_per_call, ahead / experiment.items_per_call
