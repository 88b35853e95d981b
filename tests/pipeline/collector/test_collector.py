"""A collector against a real replay: exact counts, complete frames, weights of the newest version."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import collectors_ending
import numpy as np
import pytest
import reverb
from environments_for_tests import LANES_APART, episode_length, is_truncation, reward_of

from agents import Specs
from pipeline import environments
from pipeline.collector.collector import Collector
from pipeline.environments import EnvironmentFault
from pipeline.experiment.config import dump
from pipeline.experiment.sections import Experiment
from pipeline.messages.contents import INTERRUPTED
from pipeline.messages.ports import free_port
from pipeline.replay.frames import FIRST, LAST
from pipeline.roles.collector_role import when_there

ROOT = Path(environments.__file__).parent.parent.parent
LANES = 4
NO_EXPLORATION = ("exploration.epsilon_initial=0.0", "exploration.epsilon_final=0.0")

Start = Callable[..., Collector]
pytestmark = pytest.mark.xdist_group("collector")  # one program shows how collectors end


@pytest.fixture
def start(serve: Any, publish: Any) -> Any:
    """Starts a collector of an experiment, with a server of its own unless one is given."""
    collectors: list[Collector] = []

    def start_one(experiment: Experiment, server: Any = None, index: int = 0, incarnation: int = 0) -> Collector:
        specs = environments.describe(experiment.environment)
        server = server or serve(experiment, specs)
        collector = Collector(experiment, specs, index, f"p{index}", server.address, publish(specs), incarnation)
        collectors.append(collector)
        return collector

    yield start_one
    for collector in collectors:
        collector.close()


def run(collector: Collector, steps: int) -> None:
    for _ in range(steps):
        collector.step()
        assert collector.confirm(lambda: True)
    assert collector.confirm(lambda: True, everything=True)


def lanes_of(experiment: Experiment, index: int = 0) -> list[int]:
    """What the lanes of `Counting` call themselves."""
    return [(experiment.seed_of(2, index, 0) + lane) % LANES_APART for lane in range(LANES)]


def slow_count(lane: int, vector_steps: int) -> tuple[int, list[int]]:
    """Environment steps of a lane of `Counting` and the lengths of its finished episodes, one step at a time."""
    steps, lengths, episode, length, resetting = 0, [], 0, 0, False
    for _ in range(vector_steps):
        if resetting:
            resetting, episode, length = False, episode + 1, 0
            continue
        steps, length = steps + 1, length + 1
        if length == episode_length(lane, episode):
            lengths.append(length)
            resetting = True
    return steps, lengths


@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_environment_steps_and_episodes_are_counted_exactly(
    start: Start, make_experiment: Any, publish: Any, counting_specs: Specs, steps: int
) -> None:
    experiment = make_experiment()
    collector = start(experiment)
    run(collector, steps)
    expected = [slow_count(lane, steps) for lane in lanes_of(experiment)]
    report = collector.report(publish(counting_specs))
    assert report.environment_steps == collector.environment_steps == sum(count for count, _ in expected)
    assert report.episodes == sum(len(lengths) for _, lengths in expected)
    assert sorted(report.lengths) == sorted(length for _, lengths in expected for length in lengths)
    assert report.windows == LANES * (steps - 1)
    assert report.unconfirmed == LANES, "the newest frames wait for what follows"
    collector.complete()
    assert collector.confirm(lambda: True, everything=True)
    report = collector.report(publish(counting_specs), last=True)
    assert (report.windows, report.unconfirmed) == (LANES * steps, 0)
    assert report.environment_steps == sum(count for count, _ in expected), "padding is no step"


def test_the_largest_reward_is_that_of_any_lane_and_step_so_far(
    start: Start, make_experiment: Any, publish: Any, counting_specs: Specs
) -> None:
    experiment = make_experiment(*NO_EXPLORATION)
    collector, variables = start(experiment), publish(counting_specs)
    largest = 0.0
    for _ in range(30):
        run(collector, 1)
        stored = collector._fields["reward"]
        largest = max(largest, float(np.abs(stored).max()))
        assert collector.report(variables).largest_reward == largest
    assert largest > 0.0


def test_reports_are_cumulative_and_their_episodes_are_not(
    start: Start, make_experiment: Any, publish: Any, counting_specs: Specs
) -> None:
    experiment, variables = make_experiment(), publish(counting_specs)
    collector = start(experiment)
    run(collector, 20)
    first = collector.report(variables)
    again = collector.report(variables)
    run(collector, 20)
    last = collector.report(variables, last=True)
    assert (again.environment_steps, again.episodes, again.returns, again.lengths) == (
        first.environment_steps,
        first.episodes,
        (),
        (),
    )
    totals = [slow_count(lane, 40) for lane in lanes_of(experiment)]
    assert last.environment_steps == sum(count for count, _ in totals)
    assert last.episodes == sum(len(lengths) for _, lengths in totals)
    assert len(first.returns) + len(last.returns) == last.episodes
    assert last.windows == LANES * 39
    assert (first.last, last.last) == (False, True)
    assert (last.index, last.process) == (0, "p0")
    assert last.resident_bytes > 2**20


def test_returns_are_those_of_the_actions_taken(
    start: Start, make_experiment: Any, publish: Any, counting_specs: Specs
) -> None:
    experiment = make_experiment(*NO_EXPLORATION)
    collector = start(experiment)  # of weights that prefer action 0
    run(collector, 30)
    expected = []
    for lane in lanes_of(experiment):
        for episode, length in enumerate(slow_count(lane, 30)[1]):
            expected.append(sum(reward_of(lane, episode, step, 0) for step in range(length)))
    assert sorted(collector.report(publish(counting_specs)).returns) == sorted(expected)


def test_an_episodes_end_is_a_frame_with_the_terminal_observation(
    start: Start, serve: Any, draw: Any, make_experiment: Any, counting_specs: Specs
) -> None:
    experiment = make_experiment()
    server = serve(experiment, counting_specs)
    run(start(experiment, server), 30)
    drawn = draw(server, 60)
    ends, beginnings = set(), set()
    for observation, step_type, discount, reward in zip(
        drawn["observation"], drawn["step_type"], drawn["discount"], drawn["reward"], strict=True
    ):
        lane, episode, step, _ = observation[1].astype(int)
        if step_type[1] == LAST:
            assert step == episode_length(lane, episode)
            assert discount[0] == (1.0 if is_truncation(episode) else 0.0)
            assert step_type[0] != LAST
            ends.add((lane, episode))
        if step_type[0] == LAST:
            assert step_type[1] == FIRST
            assert (step, reward[0], discount[0]) == (0, 0.0, 1.0)
            beginnings.add((lane, episode))
    for lane in lanes_of(experiment):
        episodes = len(slow_count(lane, 29)[1])
        assert {episode for owner, episode in ends if owner == lane} == set(range(episodes))
        assert {episode for owner, episode in beginnings if owner == lane} >= set(range(1, episodes))


def test_new_weights_act_and_their_version_is_recorded(
    start: Start, serve: Any, draw: Any, make_experiment: Any, publish: Any, counting_specs: Specs
) -> None:
    experiment = make_experiment(*NO_EXPLORATION)
    server = serve(experiment, counting_specs)
    collector = start(experiment, server)
    for prefers, version in ((1, 7), (2, 11)):
        run(collector, 6)
        collector.use(publish(counting_specs, prefers=prefers, gradient_steps=version))
    run(collector, 6)
    drawn = draw(server, 60)
    seen = set(zip(drawn["gradient_steps"].tolist(), drawn["action"][:, 0].tolist(), strict=True))
    assert seen == {(0, 0), (7, 1), (11, 2)}


def test_exploration_follows_the_global_count(
    start: Start, make_experiment: Any, publish: Any, counting_specs: Specs
) -> None:
    collector = start(make_experiment("exploration.epsilon_decay_steps=1000"))
    for steps, expected in ((0, 1.0), (500, 0.525), (1000, 0.05), (5000, 0.05)):
        variables = publish(counting_specs, environment_steps=steps)
        collector.use(variables)
        collector.step()
        assert collector.report(variables).epsilon == pytest.approx(expected, abs=0.01)
    assert collector.confirm(lambda: True, everything=True)


def test_exploration_goes_on_while_publications_lag(
    start: Start, make_experiment: Any, publish: Any, counting_specs: Specs
) -> None:
    collector = start(make_experiment("exploration.epsilon_decay_steps=100"))
    run(collector, 60)
    assert collector.report(publish(counting_specs)).epsilon == pytest.approx(0.05)


@pytest.mark.parametrize("by", ["lane", "episode"])
def test_lanes_explore_with_epsilons_of_their_own(
    start: Start, serve: Any, draw: Any, make_experiment: Any, publish: Any, counting_specs: Specs, by: str
) -> None:
    # With an exponent this large, whoever is above the first rung is greedy: the first lane alone explores.
    ladder = (f'exploration.ladder_by="{by}"', "exploration.ladder_alpha=1e6")
    experiment = make_experiment("exploration.epsilon_initial=0.999", "exploration.epsilon_final=0.999", *ladder)
    server = serve(experiment, counting_specs)
    collector = start(experiment, server=server)
    run(collector, 40)
    drawn = draw(server, 60)
    lanes = drawn["observation"][:, 0, 0].astype(int)
    explored = {lane: bool((drawn["action"][lanes == lane, 0] != 0).any()) for lane in set(lanes.tolist())}
    assert sorted(explored.values()) == ([False, False, False, True] if by == "lane" else [False] * 4)
    told = collector.report(publish(counting_specs)).epsilon
    assert told == pytest.approx(0.999 / 4 if by == "lane" else 0.0, abs=0.01)


def test_a_report_says_how_far_the_weights_lag(
    start: Start, make_experiment: Any, publish: Any, counting_specs: Specs
) -> None:
    collector = start(make_experiment())
    run(collector, 2)
    assert collector.report(publish(counting_specs, gradient_steps=9)).weights_age == 9
    collector.use(publish(counting_specs, gradient_steps=9))
    assert collector.report(publish(counting_specs, gradient_steps=9)).weights_age == 0


@pytest.mark.parametrize("fields", [{}, {"index": 1}, {"incarnation": 1}], ids=str)
def test_a_seed_fixes_what_a_collector_does_and_each_has_its_own(
    start: Start, make_experiment: Any, publish: Any, fields: dict[str, int]
) -> None:
    experiment = make_experiment(
        "environment.import_path='environments_for_tests:Noisy'", "collect.collectors=2", "seed=3"
    )
    specs = environments.describe(experiment.environment)
    returns = []
    for collector in (start(experiment), start(experiment, **fields)):
        run(collector, 60)
        returns.append(collector.report(publish(specs)).returns)
    assert len(returns[0]) > 10
    assert (returns[0] == returns[1]) == (not fields)


def test_no_forbidden_action_is_taken_or_forgotten(start: Start, serve: Any, draw: Any, make_experiment: Any) -> None:
    experiment = make_experiment("environment.import_path='environments_for_tests:Masked'")
    specs = environments.describe(experiment.environment)
    assert specs.masked
    server = serve(experiment, specs)
    run(start(experiment, server), 40)  # epsilon is 1; a forbidden action would raise
    drawn = draw(server, 40)
    observation, mask = drawn["observation"]
    for seen, allowed, action, step_type in zip(observation, mask, drawn["action"], drawn["step_type"], strict=True):
        for t in np.flatnonzero(step_type != LAST):
            assert allowed[t].tolist() == [j == int(seen[t, 2]) % 3 for j in range(3)]
            assert allowed[t, action[t]]


def test_a_fault_too_many_ends_collecting_and_what_came_before_is_stored(
    start: Start, serve: Any, draw: Any, make_experiment: Any, counting_specs: Specs
) -> None:
    lane = make_experiment().seed_of(2, 0, 0) % LANES_APART
    experiment = make_experiment(
        "environment.import_path='environments_for_tests:Faulty'",
        f"environment.kwargs={{fault='nan_reward', lane={lane + 2}, episode=3}}",
        "collect.faulty_episodes=0",
    )
    server = serve(experiment, counting_specs)
    collector = start(experiment, server)
    with pytest.raises(EnvironmentFault, match=r"Faulty.*lane 2, step [0-9]+: reward"):
        run(collector, 30)
    assert collector.confirm(lambda: True, everything=True)
    assert server.tally().inserted > 4
    drawn = draw(server, 20)
    assert np.isfinite(drawn["reward"]).all()
    assert np.isfinite(drawn["observation"]).all()


def test_collectors_share_a_table(
    start: Start, serve: Any, draw: Any, make_experiment: Any, counting_specs: Specs
) -> None:
    experiment = make_experiment("collect.collectors=2")
    server = serve(experiment, counting_specs)
    collectors = [start(experiment, server, index) for index in range(2)]
    for _ in range(5):
        for collector in collectors:
            run(collector, 3)
    assert server.tally().inserted == 2 * 14
    lanes = set(draw(server, 40)["observation"][:, 0, 0].astype(int))
    assert lanes == {*lanes_of(experiment, 0), *lanes_of(experiment, 1)}


def test_a_bonus_reaches_the_replay_and_not_the_returns(
    start: Start, serve: Any, draw: Any, make_experiment: Any, publish: Any, counting_specs: Specs
) -> None:
    returns, rewards = [], []
    for bonus in ("count_bonus=0.0", "count_bonus=0.5", "prediction_bonus=0.5"):
        experiment = make_experiment(*NO_EXPLORATION, f"exploration.{bonus}")
        server = serve(experiment, counting_specs)
        collector = start(experiment, server)
        run(
            collector, 700
        )  # the scales of the features and of their projections are measured on 1,000 observations each
        returns.append(collector.report(publish(counting_specs)).returns)
        drawn = draw(server, 100)
        starts = [tuple(map(int, row)) for row in drawn["observation"][:, 0, :3]]
        raw = [reward_of(lane, episode, step, 0) for lane, episode, step in starts]
        is_end = drawn["step_type"][:, 0] == LAST
        rewards.append(np.where(is_end, 0.0, drawn["reward"][:, 0] - np.float32(raw)))
        assert (drawn["reward"][is_end, 0] == 0.0).all()
    assert returns[0] == returns[1] == returns[2]
    assert not rewards[0].any()
    assert rewards[2].max() > 0.0
    assert (rewards[1] >= -1e-6).all()
    assert 0.3 < rewards[1].max() <= 0.5 + 1e-6


# How collectors end: of four of them, two in processes of their own


@pytest.fixture(scope="module")
def endings(tmp_path_factory: pytest.TempPathFactory, make_experiment: Any) -> dict[str, Any]:
    """What became of collectors: of those of `collectors_ending.py`, and exit codes of two that it held back."""
    folder = tmp_path_factory.mktemp("endings")
    experiment = make_experiment(
        "collect.away_seconds=4.0", "replay.samples_per_insert=1.0", "learner.steps_per_call=2"
    )
    config = folder / "config.toml"
    config.write_text(dump(experiment))
    ports = [free_port(), free_port()]
    options: Any = {"cwd": ROOT, "env": {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}}
    program = [sys.executable, collectors_ending.__file__, str(config), str(folder), *map(str, ports)]
    role = [sys.executable, "-m", "pipeline.role", "--role=collector", f"--config={config}"]
    processes = [subprocess.Popen(program, stdout=subprocess.PIPE, text=True, **options)]
    try:
        processes += [subprocess.Popen([*role, f"--replay=127.0.0.1:{port}"], **options) for port in ports]
        server, told, left = processes
        found: dict[str, Any] = json.loads(server.stdout.readline())
        assert server.stdout.readline() == "held back\n"
        told.terminate()
        found["told to end"] = told.wait(120)
        server.kill()
        found["its replay is gone"] = left.wait(120)
        return found
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.xdist_group("endings of collectors")
@pytest.mark.parametrize("inserts", ["free", "blocking"])
def test_a_collector_runs_until_it_is_told_to_leave(endings: dict[str, Any], inserts: str) -> None:
    result = endings[inserts]
    assert result["code"] == 0
    assert result["last"] == [False] * (len(result["last"]) - 1) + [True]
    assert result["returns"] == result["episodes"] > 0
    assert result["steps"] > 0
    if inserts == "blocking":  # nobody samples: the limiter keeps some items out, and the collector leaves without them
        assert 0 < result["transitions"] <= 8 * result["items"]
        assert result["unconfirmed"] > 0
    else:
        assert result["transitions"] in (8 * result["items"], 8 * result["items"] - 4)  # the last may lack a step
        assert result["unconfirmed"] == 0


@pytest.mark.xdist_group("endings of collectors")
@pytest.mark.parametrize(("ending", "code"), [("told to end", INTERRUPTED), ("its replay is gone", 3)])
def test_a_collector_that_is_held_back_ends_in_time(endings: dict[str, Any], ending: str, code: int) -> None:
    assert endings[ending] == code


def test_a_collector_is_made_again_where_the_replay_was_killed_between_two_answers() -> None:
    port, servers = free_port(), list[Any]()

    def serve() -> None:
        servers.append(reverb.Server([reverb.Table.queue("frames", 1)], port))

    def make() -> Any:
        if not servers:
            threading.Timer(0.5, serve).start()
            raise RuntimeError("Connection reset by peer")
        return servers[0]

    def fail() -> Any:
        raise RuntimeError("an error of its own")

    made: Any = when_there(f"127.0.0.1:{port}", "collector 0", make)
    assert made is servers[0]
    with pytest.raises(RuntimeError, match="of its own"):  # it is not about the server
        when_there(f"127.0.0.1:{port}", "collector 0", fail)
    made.stop()
