"""The replay with a real Reverb server: what is written is what is drawn, and who waits for whom."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import held_back as held_back_program
import numpy as np
import pytest
import tensorflow as tf
from environments_for_tests import LANES_APART, episode_length, is_truncation, reward_of
from replay_writing import STRANGE, write_as_stranger, write_frames

from agents import ArraySpec, Specs
from pipeline.collector.collector import Collector
from pipeline.experiment.config import UsageError
from pipeline.experiment.sections import Experiment
from pipeline.messages.ports import free_port, refuse_used_port
from pipeline.replay.embedded import EmbeddedReplay
from pipeline.replay.frames import FIRST, LAST, MID, FrameLayout
from pipeline.replay.sampling import decode
from pipeline.replay.writer import FrameWriter
from pipeline.runtime import native

Serve = Callable[..., EmbeddedReplay]
MakeExperiment = Callable[..., Experiment]
pytestmark = pytest.mark.xdist_group("replay")  # one program runs the cases for all

RICH = Specs({"image": ArraySpec((2, 3, 1), "uint8", (255,)), "gear": ArraySpec((), "int32", (4,))}, 3, masked=True)


def numbered_frames(layout: FrameLayout, lanes: int, steps: int) -> Any:
    """Random frames [steps, lanes] that can be told apart: the action is the lane, gradient_steps the step."""
    random = np.random.default_rng(0)
    frames = np.frombuffer(random.bytes(steps * lanes * layout.num_bytes), layout.dtype).reshape(steps, lanes).copy()
    for name in ("terminated", *(["mask"] if layout.specs.masked else [])):
        frames[name] = random.integers(0, 2, frames[name].shape)
    frames["action"] = np.arange(lanes)
    frames["gradient_steps"] = np.arange(steps)[:, None]
    return frames


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("steps_per_item", [1, 4])
@pytest.mark.parametrize("lanes_per_item", [1, 2, 8])
def test_what_is_written_is_drawn_byte_for_byte(
    serve: Serve, draw: Any, make_experiment: MakeExperiment, lanes_per_item: int, steps_per_item: int, n_step: int
) -> None:
    experiment = make_experiment(
        "collect.lanes=8",
        f"replay.lanes_per_item={lanes_per_item}",
        f"replay.steps_per_item={steps_per_item}",
        f"agent.n_step={n_step}",
    )
    layout, server, steps, window = FrameLayout(RICH), serve(experiment, RICH), 8 + n_step, n_step + 1
    frames = numbered_frames(layout, 8, steps)
    writer = write_frames(server, experiment, layout, frames)
    items = 8 // steps_per_item * 8 // lanes_per_item
    assert server.tally().inserted == server.info().current_size == items
    assert writer.book.confirmed_windows == (steps - n_step) * 8
    assert writer.book.unconfirmed_windows == 0

    drawn = draw(server, 80)

    seen = set()
    expected = decode(layout.as_bytes(frames.reshape(-1)).reshape(steps, 8, -1), layout)[0]
    for j, (start, lane) in enumerate(zip(drawn["gradient_steps"], drawn["action"][:, 0], strict=True)):
        seen.add((int(start), int(lane)))
        for name in ("reward", "discount", "step_type", "next_step_type", "action"):
            values = getattr(expected, name).numpy()[start : start + window, lane]
            assert drawn[name][j].tobytes() == values.tobytes()
        leaves, mask = drawn["observation"]
        assert np.array_equal(mask[j], expected.observation[1].numpy()[start : start + window, lane])
        for name in ("image", "gear"):
            values = expected.observation[0][name].numpy()[start : start + window, lane]
            assert leaves[name][j].tobytes() == values.tobytes()
    assert seen == {(start, lane) for start in range(steps - n_step) for lane in range(8)}


@pytest.mark.parametrize("groups", [1, 2])
def test_a_writer_that_ends_within_an_item_fills_it_up_with_padding(
    serve: Serve, draw: Any, make_experiment: MakeExperiment, counting_specs: Specs, groups: int
) -> None:
    experiment = make_experiment(f"replay.lanes_per_item={4 // groups}", "replay.steps_per_item=4")
    layout, server = FrameLayout(counting_specs), serve(experiment, counting_specs)
    frames = numbered_frames(layout, 4, 11)  # 10 whole windows: two items, and two windows more
    writer = FrameWriter.of(experiment, layout, server.address)
    for step in frames:
        writer.append(step)
    assert writer.confirm(lambda: True, everything=True)
    assert (writer.book.confirmed_windows, writer.book.unconfirmed_windows) == (8 * 4, 3 * 4)
    padding = layout.padding(4)
    padding["gradient_steps"] = 11
    assert writer.book.missing == 2
    for _ in range(2):
        writer.pad(padding)
    assert writer.book.missing == 0
    assert (writer.book.confirmed_windows, writer.book.unconfirmed_windows) == (8 * 4, 3 * 4)
    assert writer.confirm(lambda: True, everything=True)
    assert (writer.book.confirmed_windows, writer.book.unconfirmed_windows) == (11 * 4, 0)
    assert server.tally().inserted == 3 * groups
    drawn = draw(server, 40)
    assert set(drawn["gradient_steps"]) == set(range(12))
    assert (drawn["step_type"][drawn["gradient_steps"] == 11] == LAST).all()


def test_a_writer_too_short_for_one_item_stores_what_it_has(
    serve: Serve, make_experiment: MakeExperiment, counting_specs: Specs
) -> None:
    experiment = make_experiment("replay.steps_per_item=8", "learner.batch_size=64")
    layout, server = FrameLayout(counting_specs), serve(experiment, counting_specs)
    writer = write_frames(server, experiment, layout, numbered_frames(layout, 4, 6))
    assert (writer.book.confirmed_windows, writer.book.unconfirmed_windows) == (5 * 4, 0)
    assert server.tally().inserted == 1
    writer.close()


@pytest.mark.parametrize("steps", [1, 7])
def test_a_long_end_is_created_in_full_though_many_items_wait(
    serve: Serve, make_experiment: MakeExperiment, counting_specs: Specs, steps: int
) -> None:
    experiment = make_experiment("replay.lanes_per_item=1", "agent.n_step=60")
    layout, server = FrameLayout(counting_specs), serve(experiment, counting_specs)
    writer = FrameWriter.of(experiment, layout, server.address)
    for step in range(steps):
        writer.append(numbered_frames(layout, 4, steps)[step])
    while writer.book.missing:  # all at once, as at the end of a collector
        writer.pad(layout.padding(4))
    assert writer.confirm(lambda: True, everything=True)
    assert (writer.book.confirmed_windows, writer.book.unconfirmed_windows) == (steps * 4, 0)
    assert server.tally().inserted == steps * 4


@pytest.mark.parametrize("lanes_per_item", [1, 4])
def test_what_is_unconfirmed_stays_bounded(
    serve: Serve, make_experiment: MakeExperiment, counting_specs: Specs, lanes_per_item: int
) -> None:
    experiment = make_experiment(f"replay.lanes_per_item={lanes_per_item}")
    layout, server = FrameLayout(counting_specs), serve(experiment, counting_specs)
    writer = FrameWriter(server.address, layout, 4, lanes_per_item, experiment.agent.window_length)
    steps, groups, frames = 400, 4 // lanes_per_item, layout.empty(4)
    for step in range(steps):
        frames["gradient_steps"] = step
        writer.append(frames)
        assert writer.confirm(lambda: True)
        assert writer.book.unconfirmed_windows <= (32 + 32) * lanes_per_item + 4  # and the newest frames
        handed_over = writer.book.unconfirmed_windows + writer.book.confirmed_windows
        assert handed_over == (step + 1) * 4
    assert writer.confirm(lambda: True, everything=True)
    assert writer.book.confirmed_windows == (steps - 1) * 4
    assert server.tally().inserted == (steps - 1) * groups


def collect(server: EmbeddedReplay, experiment: Experiment, specs: Specs, variables: Any, steps: int) -> Collector:
    collector = Collector(experiment, specs, 0, "process", server.address, variables)
    for _ in range(steps):
        collector.step()
        assert collector.confirm(lambda: True)
    assert collector.confirm(lambda: True, everything=True)
    return collector


def check_window(window: dict[str, Any]) -> None:
    """Holds a drawn window of `Counting` against its rules, frame by frame."""
    observation = window["observation"]
    lane = observation[0, 0]
    for t, (_, episode, step, _) in enumerate(observation):
        length, action = episode_length(int(lane), int(episode)), window["action"][t]
        assert observation[t, 0] == lane
        if step == length:
            assert window["step_type"][t] == LAST
            expected = (0.0, 1.0, FIRST, (lane, episode + 1, 0, -1))
        else:
            assert window["step_type"][t] == (FIRST if step == 0 else MID)
            ends = step + 1 == length
            discount = 0.0 if ends and not is_truncation(int(episode)) else 1.0
            reward = reward_of(int(lane), int(episode), int(step), int(action))
            expected = (reward, discount, LAST if ends else MID, (lane, episode, step + 1, action))
        assert (window["reward"][t], window["discount"][t], window["next_step_type"][t]) == expected[:3]
        if t + 1 < len(observation):
            assert tuple(observation[t + 1]) == expected[3]
            assert window["step_type"][t + 1] == window["next_step_type"][t]


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize(("lanes_per_item", "steps_per_item"), [(1, 1), (2, 4), (0, 1), (0, 8)])
def test_windows_are_consecutive_frames_of_one_lane_and_none_is_skipped(
    serve: Serve,
    draw: Any,
    make_experiment: MakeExperiment,
    counting_specs: Specs,
    publish: Any,
    lanes_per_item: int,
    steps_per_item: int,
    n_step: int,
) -> None:
    experiment = make_experiment(
        f"replay.lanes_per_item={lanes_per_item}",
        f"replay.steps_per_item={steps_per_item}",
        f"agent.n_step={n_step}",
    )
    server, steps = serve(experiment, counting_specs), 24 + n_step
    collector = collect(server, experiment, counting_specs, publish(counting_specs), steps)

    drawn = draw(server, 60)

    starts = set()
    for j in range(len(drawn["action"])):
        check_window({name: values[j] for name, values in drawn.items() if name != "gradient_steps"})
        starts.add(tuple(drawn["observation"][j, 0, :3].astype(int)))
    first = min(lane for lane, _, _ in starts)
    lanes = {lane for lane, _, _ in starts}
    assert len(lanes) == 4
    # Every frame but the last n begins a window: those before an episode's end and the ends themselves, too.
    expected = set()
    for lane in lanes:
        frames = [(episode, step) for episode in range(steps) for step in range(episode_length(lane, episode) + 1)]
        expected |= {(lane, *frame) for frame in frames[: steps - n_step]}
    assert starts == expected
    assert 0 <= first < LANES_APART
    collector.close()


@pytest.mark.parametrize(("lanes_per_item", "steps_per_item"), [(1, 1), (1, 4), (4, 1), (4, 4)])
def test_every_transition_is_drawn_with_the_same_chance(
    serve: Serve,
    draw: Any,
    make_experiment: MakeExperiment,
    counting_specs: Specs,
    lanes_per_item: int,
    steps_per_item: int,
) -> None:
    experiment = make_experiment(
        f"replay.lanes_per_item={lanes_per_item}",
        f"replay.steps_per_item={steps_per_item}",
        "learner.batch_size=64",
        "learner.steps_per_call=50",
    )
    layout, server, steps = FrameLayout(counting_specs), serve(experiment, counting_specs), 61
    write_frames(server, experiment, layout, numbered_frames(layout, 4, steps))

    drawn = draw(server, 10)

    counts = np.zeros((steps - 1, 4))
    np.add.at(counts, (drawn["gradient_steps"], drawn["action"][:, 0]), 1)
    if lanes_per_item == 4:
        assert (counts == counts[:, :1]).all()
    expected = counts.mean()
    # The transitions of an item are drawn together, which multiplies the statistic by their number.
    statistic = ((counts - expected) ** 2 / expected).sum() / experiment.windows_per_item
    freedom = counts.size / experiment.windows_per_item - 1
    assert statistic < freedom + 6 * np.sqrt(2 * freedom)


def test_a_batch_takes_one_lane_of_many_items(
    serve: Serve, make_experiment: MakeExperiment, counting_specs: Specs
) -> None:
    experiment = make_experiment(
        "collect.lanes=8", "replay.lanes_per_item=8", "learner.batch_size=16", "learner.steps_per_call=8"
    )
    layout, server = FrameLayout(counting_specs), serve(experiment, counting_specs)
    write_frames(server, experiment, layout, numbered_frames(layout, 8, 300))
    for sample in server.dataset().take(5).as_numpy_iterator():
        for items, lanes in zip(sample.gradient_steps, sample.trajectory.action[:, :, 0], strict=True):
            assert len(set(lanes)) == 1
            assert len(set(items)) >= 12  # 16 of 299 items, drawn with replacement
        assert len(set(sample.trajectory.action[:, 0, 0])) == 8


def test_samples_have_the_shapes_of_a_fused_call(
    serve: Serve, make_experiment: MakeExperiment, counting_specs: Specs
) -> None:
    experiment = make_experiment("agent.n_step=2", "learner.steps_per_call=3", "learner.batch_size=8")
    layout, server = FrameLayout(counting_specs), serve(experiment, counting_specs)
    write_frames(server, experiment, layout, numbered_frames(layout, 4, 10))
    dataset = server.dataset()
    trajectory, gradient_steps, relative_probability, keys, shards = dataset.element_spec
    assert trajectory.observation.shape == (3, 8, 3, 4)
    assert trajectory.reward.shape == (3, 8, 3)
    assert gradient_steps.shape == relative_probability.shape == (3, 8)
    assert keys.shape == (6,)  # items of 4 lanes
    assert shards == ()


@pytest.mark.parametrize("prioritized", [False, True])
def test_an_iterators_end_waits_for_no_thread_of_tf_datas_own(
    serve: Serve, make_experiment: MakeExperiment, counting_specs: Specs, prioritized: bool
) -> None:
    """The thread that tunes sleeps twice as long each time, up to 60 s, and nothing wakes it."""
    experiment = make_experiment(f"replay.prioritized={str(prioritized).lower()}")
    assert not serve(experiment, counting_specs).dataset().options().autotune.enabled


@pytest.mark.parametrize("columns", STRANGE, ids=lambda columns: "-".join(str(np.asarray(c).dtype) for c in columns))
@pytest.mark.parametrize("prioritized", [False, True])
def test_what_a_stranger_inserts_is_passed_over_and_counted(
    serve: Serve, make_experiment: MakeExperiment, counting_specs: Specs, columns: Sequence[Any], prioritized: bool
) -> None:
    experiment = make_experiment("learner.batch_size=8", f"replay.prioritized={str(prioritized).lower()}")
    layout, server = FrameLayout(counting_specs), serve(experiment, counting_specs)
    write_frames(server, experiment, layout, numbered_frames(layout, 4, 30))
    write_as_stranger(server.address, layout.table, columns)
    stored = server.size()
    samples = server.samples()
    while not server.refused.count:
        assert next(samples).trajectory.observation.shape[1] == 8
    assert "none of the run's roles" in server.refused.warning
    for _ in range(5):
        assert next(samples).gradient_steps.numpy().max() < 30
    assert server.size() == stored, "it stays until others take its place"


def test_a_table_of_a_strangers_items_alone_ends_the_draw(
    serve: Serve, make_experiment: MakeExperiment, counting_specs: Specs
) -> None:
    layout, server = FrameLayout(counting_specs), serve(make_experiment("replay.min_size=4"), counting_specs)
    for _ in range(4):
        write_as_stranger(server.address, layout.table, STRANGE[0])
    with pytest.raises(tf.errors.InvalidArgumentError):
        next(server.samples())
    assert server.refused.count == 1_000


# The table


def offer(server: EmbeddedReplay, layout: FrameLayout, lanes: int, per_item: int, window: int) -> None:
    """Writes a few frames of a layout."""
    writer = FrameWriter(server.address, layout, lanes, per_item, window)
    for _ in range(window + 1):
        writer.append(layout.empty(lanes))
    assert writer.confirm(lambda: True, everything=True)


@pytest.mark.parametrize(
    ("other", "per_item", "window"),
    [
        (Specs(ArraySpec((5,), "float32"), 3), 4, 2),
        (Specs(ArraySpec((4,), "float32"), 3, masked=True), 4, 2),
        (Specs(ArraySpec((4,), "float32"), 3), 2, 2),
        (Specs(ArraySpec((4,), "float32"), 3), 4, 3),
    ],
    ids=["observation", "mask", "lanes", "window"],
)
def test_the_table_refuses_frames_of_another_size(
    serve: Serve, make_experiment: MakeExperiment, counting_specs: Specs, other: Specs, per_item: int, window: int
) -> None:
    server = serve(make_experiment(), counting_specs)
    offer(server, FrameLayout(counting_specs), 4, 4, 2)
    with pytest.raises((ValueError, UsageError), match=r"signature|layout"):
        offer(server, FrameLayout(other), 4, per_item, window)
    assert server.tally().inserted == 2


def test_the_table_refuses_another_layout_of_the_same_size(
    serve: Serve, make_experiment: MakeExperiment, counting_specs: Specs
) -> None:
    server = serve(make_experiment(), counting_specs)
    other = FrameLayout(Specs(ArraySpec((4,), "int32", (9,) * 4), 3))
    assert other.num_bytes == FrameLayout(counting_specs).num_bytes
    with pytest.raises((ValueError, UsageError), match=r"signature|layout"):
        offer(server, other, 4, 4, 2)


def test_the_table_refuses_another_dtype(serve: Serve, make_experiment: MakeExperiment, counting_specs: Specs) -> None:
    server = serve(make_experiment(), counting_specs)
    writer = native.reverb_writer(native.reverb_client(server.address), chunk_length=1, keep_alive=3)
    shape = (4, FrameLayout(counting_specs).num_bytes)
    references = [writer.Append([np.zeros(shape, np.int8)])[0] for _ in range(2)]
    with pytest.raises(ValueError, match="uint8"):
        writer.CreateItem(FrameLayout(counting_specs).table, 1.0, [references], [False])


def test_the_oldest_items_leave_a_full_table(
    serve: Serve, draw: Any, make_experiment: MakeExperiment, counting_specs: Specs
) -> None:
    experiment = make_experiment("replay.capacity=43")  # 10 items of 4 lanes
    layout, server = FrameLayout(counting_specs), serve(experiment, counting_specs)
    write_frames(server, experiment, layout, numbered_frames(layout, 4, 31))
    assert server.info().current_size == server.info().max_size == 10
    assert server.tally().inserted == 30
    assert set(draw(server, 20)["gradient_steps"]) == set(range(20, 30))


@pytest.mark.parametrize("host", ["::", "127.0.0.1", "0.0.0.0"])
def test_a_port_that_is_in_use_is_refused(
    serve: Serve, make_experiment: MakeExperiment, counting_specs: Specs, tmp_path: Path, host: str
) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind((host, 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(UsageError, match=rf"{port}.*replay\.port"):
            EmbeddedReplay(make_experiment(), counting_specs, port, tmp_path / "refused")


def test_the_port_of_another_replay_is_refused(
    serve: Serve, make_experiment: MakeExperiment, counting_specs: Specs, tmp_path: Path
) -> None:
    port = int(serve(make_experiment(), counting_specs).address.partition(":")[2])
    with pytest.raises(UsageError, match=str(port)):
        EmbeddedReplay(make_experiment(), counting_specs, port, tmp_path / "refused")


def test_a_port_whose_connections_have_ended_is_free_at_once() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("::", 0))
        listener.listen()
        port = listener.getsockname()[1]
        client = socket.create_connection(("localhost", port))
        accepted, _ = listener.accept()
        accepted.close()  # the server closes first, as at a run's end: its side waits in TIME_WAIT
        assert client.recv(1) == b""
        client.close()
    refuse_used_port(port)


def test_free_ports_are_free() -> None:
    for _ in range(5):
        refuse_used_port(free_port())
    refuse_used_port(0)


# Who waits for whom


@pytest.fixture(scope="module")
def held_back(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the cases of `held_back.py` saw, by their names."""
    program = Path(held_back_program.__file__)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (program.parents[2], program.parent)))}
    command = [sys.executable, str(program), str(tmp_path_factory.mktemp("held_back"))]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_min_size_holds_the_learner_back(held_back: dict[str, Any]) -> None:
    result = held_back["before the minimum"]
    assert result["early"] == 0
    assert "the learner waits for collectors" in result["words"]
    assert "24 of the 26" in result["words"]
    assert "replay.min_size" in result["words"]
    assert result["late"]


def test_the_ratio_holds_the_collectors_back(held_back: dict[str, Any]) -> None:
    result = held_back["collectors ahead"]
    assert result["appended"] < 200
    assert 10 <= result["inserted"] < 100
    assert "the collectors wait for the learner" in result["words"]
    assert result["confirmed"]
    assert result["after"] == result["appended"]  # the first frame completes no item, the one held back does
    assert result["transitions"] == 4 * result["after"]


def test_the_ratio_holds_the_learner_back(held_back: dict[str, Any]) -> None:
    result = held_back["learner ahead"]
    assert 1 <= result["drawn"] < 100
    assert result["drawn"] * 4 <= 14 + result["slack"]
    assert "the learner waits for collectors, which do not insert" in result["words"]


def test_samples_and_inserts_keep_the_ratio_over_a_long_run(held_back: dict[str, Any]) -> None:
    result = held_back["a long run"]
    assert result["appended"] == 1500
    assert result["inserts"] == 1499
    assert abs(2.0 * result["inserts"] - result["samples"]) <= result["slack"] + 100


def test_without_blocking_inserts_never_wait(held_back: dict[str, Any]) -> None:
    assert held_back["without blocking"] == {"appended": 2000}


@pytest.mark.parametrize("change", [" ".join(change) for change, _ in held_back_program.RESTORED])
def test_a_restored_replay_lets_both_sides_go_on(held_back: dict[str, Any], change: str) -> None:
    # Reverb would restore the limiter with the items: inserts that never wait would wait for ever, or the reverse.
    assert held_back["restored"][change] == {"before": 80, "after": 150, "inserts": 79 + 149, "went_on": True}


def test_giving_up_leaves_the_count_of_unconfirmed_windows(held_back: dict[str, Any]) -> None:
    result = held_back["giving up"]
    assert not result["confirmed"]
    assert result["counted"] + result["pending"] == 4 * (result["appended"] + 1)  # one was held back
    assert result["counted"] <= 4 * result["inserted"]
    assert result["pending"] > 0
