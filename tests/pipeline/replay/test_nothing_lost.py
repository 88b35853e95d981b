"""Every environment step reaches the learner, once: checked on what it would draw from a real replay."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from environments_for_tests import LANES_APART, episode_length, is_truncation, reward_of
from environments_that_fail import Unreliable
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from samples import trajectory_of

import agents
from agents import Specs
from agents.losses import n_step_return
from pipeline import environments
from pipeline.acting import network_program
from pipeline.acting.frame_stacks import stacked
from pipeline.collector.collector import Collector
from pipeline.environments import EnvironmentFault
from pipeline.experiment.sections import Experiment
from pipeline.messages.contents import Array, Variables
from pipeline.replay.frames import LAST

GAMMA = 0.5
Step = tuple[int, int, int]
"""Of an environment: lane, episode, step within it."""


def lanes_of(experiment: Experiment) -> list[int]:
    """What the lanes of `Counting` call themselves."""
    return [(experiment.seed_of(2, 0, 0) + lane) % LANES_APART for lane in range(experiment.collect.lanes)]


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
        trajectory = trajectory_of(server, sample)
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
        assert 0 <= counts.windows <= counts.begun
    collector.complete()
    begun = collector.counts.begun
    assert collector.confirm(lambda: True, everything=True)
    assert (collector.counts.begun, collector.counts.windows) == (begun, begun)


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


def test_reported_episodes_are_those_of_the_replay(
    serve: Any, make_experiment: Callable[..., Experiment], counting_specs: Specs, publish: Any
) -> None:
    experiment = make_experiment("replay.steps_per_item=2", "learner.batch_size=16", "replay.min_size=1")
    server, variables = serve(experiment, counting_specs), publish(counting_specs)
    collector = Collector(experiment, counting_specs, 0, "p", server.address, variables)
    run(collector, 40)
    report = collector.report(variables, last=True)
    drawn = everything_in(server)
    collector.close()
    totals: dict[tuple[int, int], list[float]] = {}
    for observation, step_type, reward in zip(drawn["observation"], drawn["step_type"], drawn["reward"], strict=True):
        if step_type[0] != LAST:
            lane, episode = observation[0, :2].astype(int).tolist()
            totals.setdefault((lane, episode), []).append(float(reward[0]))
    whole = {key: rewards for key, rewards in totals.items() if len(rewards) == episode_length(*key)}
    assert report.episodes == len(report.returns) == len(whole) > 20
    assert sorted(report.returns) == pytest.approx(sorted(map(sum, whole.values())))
    assert sorted(report.lengths) == sorted(map(len, whole.values()))


def recurrent(experiment: Experiment, specs: Specs) -> Variables:
    """A publication of the experiment's network."""
    model = agents.build("r2d2", specs, experiment.agent).acting_model
    program = network_program.convert(model, specs, experiment.agent.state_units)
    weights = tuple(Array.of(weight) for weight in model.get_weights())
    return Variables(0, 0, program=program, weights=weights)


@pytest.mark.parametrize(("vector_steps", "sequence", "period"), [(1, 4, 3), (9, 4, 4), (23, 4, 3), (23, 3, 5)])
def test_sequences_learn_from_each_environment_step(
    serve: Any,
    make_experiment: Callable[..., Experiment],
    counting_specs: Specs,
    vector_steps: int,
    sequence: int,
    period: int,
) -> None:
    burn_in = 2
    experiment = make_experiment(
        'agent.kind="r2d2"',
        "agent.hidden_units=[8]",
        "agent.lstm_units=6",
        f"agent.burn_in={burn_in}",
        f"agent.sequence={sequence}",
        f"agent.period={period}",
        "replay.min_size=1",
    )
    server = serve(experiment, counting_specs)
    variables = recurrent(experiment, counting_specs)
    collector = Collector(experiment, counting_specs, 0, "p", server.address, variables)
    run(collector, vector_steps)
    sequences = -(-vector_steps // period)
    assert collector.counts.begun == sequences * experiment.collect.lanes
    drawn = everything_in(server)
    collector.close()

    starts = range(0, vector_steps, period)
    assert len(drawn["action"]) == len(starts) * experiment.collect.lanes
    learned = drawn["observation"][:, burn_in : burn_in + sequence].astype(int)
    valid = drawn["step_type"][:, burn_in : burn_in + sequence] != LAST
    expected_steps = set()
    for lane in lanes_of(experiment):
        frames, episode, step = [], 0, 0
        for _ in range(vector_steps):
            frames.append((lane, episode, step))
            episode, step = (episode + 1, 0) if step == episode_length(lane, episode) else (episode, step + 1)
        for start in starts:
            expected_steps |= {
                frame for frame in frames[start : start + sequence] if frame[2] != episode_length(*frame[:2])
            }
    assert {tuple(frame[:3].tolist()) for frame in learned[valid]} == expected_steps
    if period <= sequence:
        taken = [step for lane in lanes_of(experiment) for step in steps_of(lane, vector_steps)]
        assert expected_steps == set(taken)


def test_an_on_policy_collector_hands_over_whole_sequences_alone(
    serve: Any, make_experiment: Callable[..., Experiment], publish: Any, counting_specs: Specs
) -> None:
    experiment = make_experiment(
        'agent.kind="reinforce"',
        "agent.rollout=3",
        'exploration.strategy="boltzmann"',
        "learner.batch_size=4",
        "learner.steps_per_call=1",
        "replay.samples_per_insert=1",
    )
    server = serve(experiment, counting_specs)
    collector = Collector(experiment, counting_specs, 0, "p", server.address, publish(counting_specs))
    run(collector, 6)
    assert collector.counts.begun == 4
    assert server.tally().inserted == 1
    collector.close()


KINDS = ("raises", "nan", "nan_reward", "text_reward", "shape", "dtype")


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lanes=st.sampled_from([1, 3]),
    steps_per_item=st.sampled_from([1, 4]),
    vector_steps=st.integers(1, 60),
    chance=st.sampled_from([0.05, 0.3]),
    seed=st.integers(0, 1_000),
)
@example(lanes=3, steps_per_item=1, vector_steps=60, chance=0.3, seed=0)
def test_faults_cost_their_own_step_alone(
    serve: Any,
    make_experiment: Callable[..., Experiment],
    publish: Any,
    lanes: int,
    steps_per_item: int,
    vector_steps: int,
    chance: float,
    seed: int,
) -> None:
    """A fault's step is not stored; every other step of every lane is, once, with what it returned."""
    experiment = make_experiment(
        "environment.import_path='environments_that_fail:Unreliable'",
        f"environment.kwargs={{kinds={list(KINDS)}, chance={chance}}}",
        f"collect.lanes={lanes}",
        f"replay.steps_per_item={steps_per_item}",
        f"learner.batch_size={2 * lanes * steps_per_item}",
        "collect.faulty_episodes=1.0",
        "replay.min_size=1",
        f"seed={seed}",
    )
    specs = environments.describe(experiment.environment)
    server = serve(experiment, specs)
    Unreliable.forget()
    collector = Collector(experiment, specs, 0, "p", server.address, publish(specs))
    run(collector, vector_steps)
    drawn, report = everything_in(server), collector.report(publish(specs))
    collector.close()

    assert report.environment_steps == len(Unreliable.taken)
    assert (report.dropped_episodes > 0) == (Unreliable.faults > 0) == bool(report.newest_fault)
    valid = drawn["step_type"][:, 0] != LAST
    numbers = drawn["observation"][..., 0].astype(int)
    assert Counter(numbers[valid, 0].tolist()) == Counter(Unreliable.taken.keys())
    for (start, following), reward, discount in zip(
        numbers[valid], drawn["reward"][valid, 0], drawn["discount"][valid, 0], strict=True
    ):
        assert Unreliable.taken[int(start)] == (reward, int(following), discount == 0.0)


def test_what_came_before_the_last_fault_of_many_is_stored(
    serve: Any, make_experiment: Callable[..., Experiment], publish: Any
) -> None:
    experiment = make_experiment(
        "environment.import_path='environments_that_fail:Unreliable'",
        "environment.kwargs={kinds=['nan'], chance=0.05}",
        "collect.faulty_episodes=0.003",
        "replay.min_size=1",
        "learner.batch_size=8",
    )
    specs = environments.describe(experiment.environment)
    server = serve(experiment, specs)
    Unreliable.forget()
    collector = Collector(experiment, specs, 0, "p", server.address, publish(specs))
    with pytest.raises(EnvironmentFault) as caught:
        run(collector, 1_000)
    message = str(caught.value)
    assert "'Unreliable', lane " in message
    assert "observation is not finite" in message
    assert "faulty episodes: 4 of the last " in message
    assert "collect.faulty_episodes=0.003 allows 3 of 1,000" in message
    assert collector.report(publish(specs)).dropped_episodes == 4
    collector.complete()
    assert collector.confirm(lambda: True, everything=True)
    drawn = everything_in(server)
    assert np.isfinite(drawn["observation"]).all()
    counts = collector.counts
    assert counts.begun == counts.windows
    valid = drawn["step_type"][:, 0] != LAST
    stored = Counter(drawn["observation"][valid, 0, 0].astype(int).tolist())
    assert set(stored.values()) == {1}
    assert len(Unreliable.taken) - len(stored) < experiment.collect.lanes, "other lanes' steps beside the last fault"
    assert len(stored) == counts.environment_steps
    collector.close()


def test_a_collector_judges_the_windows_that_padding_completes(
    serve: Any, make_experiment: Callable[..., Experiment], publish: Any, counting_specs: Specs
) -> None:
    experiment = make_experiment(
        "replay.prioritized=true",
        "replay.initial_priority='td_error'",
        "replay.priority_exponent=1.0",
        "environment.frame_stack=2",
        "agent.discount=0.5",
        "learner.batch_size=64",
        "replay.min_size=1",
    )
    server = serve(experiment, counting_specs)
    variables = publish(stacked(counting_specs, 2))  # its Q-values are 1 for action 0, else 0
    collector = Collector(experiment, counting_specs, 0, "p", server.address, variables)
    run(collector, 3)
    errors, relative = {}, {}
    for sample in server.dataset().take(10).as_numpy_iterator():
        trajectory = trajectory_of(server, sample)
        q_tm1 = (trajectory.action[..., 0] == 0).astype(float)
        error = np.abs(trajectory.reward[..., 0] + 0.5 * trajectory.discount[..., 0] - q_tm1)
        error[trajectory.step_type[..., 0] == LAST] = 0.0
        keys = sample.keys.tolist()
        errors |= dict(zip(keys, error.ravel().tolist(), strict=True))
        relative |= dict(zip(keys, sample.relative_probability.ravel().tolist(), strict=True))
    collector.close()
    assert server.tally().inserted == 3 * experiment.collect.lanes
    drawn = [key for key, error in errors.items() if error]
    assert len(drawn) >= 2 * experiment.collect.lanes
    scale = relative[drawn[0]] / errors[drawn[0]]
    for key in drawn:
        assert relative[key] == pytest.approx(scale * errors[key], rel=1e-4)
