"""Statistics of a replay against slow counts, and the state of servers, which are asked without disturbing them."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replay_writing import write_frames

from agents import ArraySpec, Specs
from pipeline.datasets import live_replay, replay_summary
from pipeline.datasets.stored_frames import Lane, episode_parts
from pipeline.experiment.config import UsageError
from pipeline.messages.ports import HOST, free_port
from pipeline.replay.frames import FIRST, LAST, MID, FrameLayout

LAYOUT = FrameLayout(Specs(ArraySpec((), "float32"), 2, masked=True))


def lane_of(values: list[tuple[float, int, float]], ends: list[bool]) -> Lane:
    """Episodes of these observations, actions and rewards; the last frame is not stored."""
    frames = LAYOUT.empty(len(values))
    frames["observation/"], frames["action"], frames["reward"] = zip(*values, strict=True)
    frames["mask"] = True
    begins = True
    for frame, end in zip(frames, ends, strict=False):
        frame["step_type"] = FIRST if begins else LAST if end else MID
        begins = frame["step_type"] == LAST
    frames["next_step_type"] = [*frames["step_type"][1:], MID]
    return Lane(frames, np.array([True] * (len(values) - 1) + [False]))


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.integers(0, 1), st.sampled_from([0.0, 2.0])), min_size=2),
    st.lists(st.booleans(), min_size=60, max_size=60),
    st.integers(0, 5),
)
def test_findings_are_those_of_a_slow_count(values: Any, ends: list[bool], gradient_steps: int) -> None:
    lane = lane_of(values, ends)
    lane.frames["gradient_steps"] = np.arange(len(values)) // 4
    found = replay_summary.findings([lane], LAYOUT, gradient_steps, {"more": [1.0]})
    steps = [step for step in range(len(values) - 1) if lane.frames["step_type"][step] != LAST]
    assert found.steps == len(steps)
    assert found.ends == len(values) - 1 - len(steps)
    assert found.actions.tolist() == [sum(values[step][1] == action for step in steps) for action in (0, 1)]
    assert found.distributions["reward"].tolist() == [values[step][2] for step in steps]
    newest = max([gradient_steps, *(step // 4 for step in steps)])
    assert found.distributions["age in gradient steps"].tolist() == [newest - step // 4 for step in steps]
    told = [(values[step], values[step + 1][0]) for step in steps]
    assert found.duplicates == len(told) - len(set(told))
    whole = [part for part in episode_parts(lane) if not part.cut]
    assert found.distributions["episode return"].tolist() == [float(part.steps["reward"].sum()) for part in whole]
    assert found.distributions["episode length"].tolist() == [len(part.steps) for part in whole]
    assert not found.faults
    text = replay_summary.table(found)
    assert "steps equal to one before" in text
    assert all(name in text for name in (*found.distributions, *found.episodes))


def test_frames_that_should_not_be_so_are_counted_by_what_is_wrong() -> None:
    lane = lane_of([(0.0, 0, 0.0)] * 12, [False, False, True] * 4)
    frames = lane.frames
    frames["observation/"][1] = np.nan
    frames["reward"][4] = np.inf
    frames["action"][7] = 7
    frames["mask"][0, 0] = False
    frames["step_type"][8] = FIRST  # within an episode: there is no end before it
    found = replay_summary.faults([lane], LAYOUT)
    assert found == {
        "observation not finite": 1,
        "reward not finite": 1,
        "action that does not exist": 1,
        "action that its mask forbids": 1,
        "episode that begins within another": 2,
    }


def test_an_empty_replay_is_a_table_too() -> None:
    found = replay_summary.findings([], LAYOUT, 0, {})
    assert (found.steps, found.duplicates) == (0, 0)
    assert "none" in replay_summary.table(found)


def test_asking_a_server_counts_as_no_sample(serve: Callable[..., Any], make_experiment: Callable[..., Any]) -> None:
    specs = Specs(ArraySpec((4,), "float32"), 3)
    experiment = make_experiment("replay.samples_per_insert=2.0")
    server, layout = serve(experiment, specs, blocking=True), FrameLayout(specs)
    write_frames(server, experiment, layout, np.stack([layout.empty(4) for _ in range(9)])).close()
    before = str(server.info().rate_limiter_info)
    for _ in range(3):
        text = live_replay.table(live_replay.ask([server.address]), experiment.windows_per_item)
    assert str(server.info().rate_limiter_info) == before
    assert f"table {layout.table}" in text
    assert re.search(r"\n  items +8 \(", text)
    assert re.search(r"\n  items sampled +0\n", text)
    assert "neither side waits" in text
    next(server.client.sample(layout.table, 1, emit_timesteps=False))
    assert str(server.info().rate_limiter_info) != before, "Reverb counts a sample of anybody's"


def test_a_server_that_does_not_answer_is_a_line_and_no_wait_without_end() -> None:
    with pytest.raises(UsageError, match=r"does not answer: is the run up"):
        live_replay.ask([f"{HOST}:{free_port()}"], seconds=0.2)


def test_a_server_without_experience_is_no_replay(tmp_path: Any) -> None:
    from pipeline.roles import relay_role

    port = free_port()
    server = relay_role.newest_server(["weights"], port)
    with pytest.raises(UsageError, match="no replay of a run"):
        live_replay.ask([f"{HOST}:{port}"])
    server.Stop()
