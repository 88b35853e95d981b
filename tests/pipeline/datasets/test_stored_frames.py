"""Frames of lanes, rebuilt from items: against a slow reference, and against what a real writer wrote."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replay_writing import write_frames

from agents import ArraySpec, Specs
from pipeline.datasets import stored_frames
from pipeline.datasets.stored_frames import BEGAN_EARLIER, BROKEN_OFF, STILL_GOING, Chunk, ItemShape, Lane, Slice
from pipeline.experiment.sections import Experiment
from pipeline.replay import reverb_checkpoint
from pipeline.replay.frames import FIRST, LAST, MID, FrameLayout
from pipeline.runtime import snappy

SPECS = Specs(ArraySpec((2,), "float32"), 3)
LAYOUT = FrameLayout(SPECS)


def lived(lanes: int, lengths: list[int], steps: int, seed: int) -> Any:
    """Frames [steps, lanes] of episodes of those lengths, dealt to the lanes in turn."""
    frames = np.stack([LAYOUT.empty(lanes) for _ in range(steps)])
    frames["observation/"] = np.random.default_rng(seed).normal(size=(steps, lanes, 2))
    frames["reward"] = np.arange(steps)[:, None] + 1000 * np.arange(lanes)
    for lane in range(lanes):
        position, episode = 0, lane
        while position < steps:
            length = lengths[episode % len(lengths)]
            types = [FIRST, *[MID] * (length - 1), LAST]
            part = frames["step_type"][position : position + length + 1, lane]
            part[:] = types[: len(part)]
            frames["terminated"][position + length - 1 : position + length, lane] = episode % 2
            position, episode = position + length + 1, episode + 1
    frames["next_step_type"][:-1] = frames["step_type"][1:]
    frames["next_step_type"][-1] = np.where(frames["step_type"][-1] == LAST, FIRST, MID)
    return frames


def stored(frames: Any, lanes_per_item: int, window: int, cut: ItemShape, chunk_length: int, evicted: int) -> Any:
    """The items and chunks that a writer would have made of frames [steps, lanes], without the oldest items."""
    chunks, items = {}, []
    steps, lanes = frames.shape
    length = window + cut.covered - 1 if cut.covered > 1 else window
    for group in range(lanes // lanes_per_item):
        part = np.ascontiguousarray(frames[:, group * lanes_per_item : (group + 1) * lanes_per_item])
        packed = part.view(np.uint8).reshape(steps, lanes_per_item, -1)
        for number, first in enumerate(range(0, steps, chunk_length)):
            chunks[1000 * group + number] = Chunk(first, packed[first : first + chunk_length])
        for begin in range(0, steps - length + 1, cut.covered):
            slices, at = [], begin
            while at < begin + length:
                end = min(begin + length, (at // chunk_length + 1) * chunk_length)
                slices.append(Slice(1000 * group + at // chunk_length, at % chunk_length, end - at))
                at = end
            items.append((begin, group, slices))
    kept = sorted(items, key=lambda item: item[:2])[evicted:]
    return [slices for _, _, slices in kept], chunks, [(begin, group) for begin, group, _ in kept]


@settings(max_examples=60)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=4),
    st.sampled_from([(1, 1), (4, 1), (4, 2), (4, 4)]),
    st.integers(1, 3),
    st.integers(0, 2),
    st.sampled_from([1, 2, 4]),
    st.integers(1, 5),
    st.integers(0, 6),
)
def test_what_is_stored_of_each_lane_is_rebuilt(
    lengths: list[int],
    shape: tuple[int, int],
    n_step: int,
    lead: int,
    covered: int,
    chunk_length: int,
    evicted: int,
) -> None:
    lanes, lanes_per_item = shape
    frames, cut = lived(lanes, lengths, 24, 0), ItemShape(lead, covered)
    items, chunks, begins = stored(frames, lanes_per_item, n_step + 1 + lead, cut, chunk_length, evicted)

    found = list(stored_frames.lanes(items, chunks, LAYOUT, cut))

    expected = {
        (lead + begin + step, group * lanes_per_item + lane)
        for begin, group in begins
        for step in range(covered)
        for lane in range(lanes_per_item)
    }
    names = {frame.tobytes(): (step, lane) for step, row in enumerate(frames) for lane, frame in enumerate(row)}
    seen = [names[frame.tobytes()] for lane in found for frame in lane.frames[lane.stored]]
    assert len(seen) == len(set(seen))
    assert set(seen) == expected
    for lane in found:
        places = [names[frame.tobytes()] for frame in lane.frames]
        assert [step for step, _ in places] == list(range(places[0][0], places[0][0] + len(places)))
        assert len({own for _, own in places}) == 1
        assert expected_parts(lane) == [(part.frames.tobytes(), part.cut) for part in stored_frames.episode_parts(lane)]


def expected_parts(lane: Lane) -> list[tuple[bytes, str]]:
    """A walk from frame to frame."""
    found: list[tuple[bytes, str]] = []
    begin = None
    for step, frame in enumerate(lane.frames):
        is_step = lane.stored[step] and frame["step_type"] != LAST
        if begin is None and is_step:
            begin = step
        if begin is not None and not is_step:
            if lane.frames[begin]["step_type"] != FIRST:
                cut = BEGAN_EARLIER
            elif frame["step_type"] != LAST:
                cut = STILL_GOING
            else:
                cut = "" if lane.frames[step - 1]["next_step_type"] == LAST else BROKEN_OFF
            found.append((lane.frames[begin : step + 1].tobytes(), cut))
            begin = None
    return found


def test_an_episode_that_the_step_before_its_end_does_not_announce_is_broken_off() -> None:
    frames = lived(1, [3], 8, 0)[:, 0]
    frames["next_step_type"][2] = MID
    frames["step_type"][5], frames["next_step_type"][5] = LAST, FIRST  # a fault in the episode's second step
    frames["step_type"][6:] = FIRST, MID
    lane = Lane(frames, np.array([True] * 7 + [False]))
    assert [(len(part.steps), part.cut) for part in stored_frames.episode_parts(lane)] == [
        (3, BROKEN_OFF),
        (1, BROKEN_OFF),
        (1, STILL_GOING),
    ]


def test_items_that_were_lost_cut_their_lane() -> None:
    frames, cut = lived(1, [30], 24, 0), ItemShape(0, 1)
    items, chunks, _ = stored(frames, 1, 2, cut, 2, 0)
    kept = [*items[:8], *items[12:]]
    wanted = {part.chunk for slices in kept for part in slices}
    found = list(stored_frames.lanes(kept, {key: chunks[key] for key in wanted}, LAYOUT, cut))
    parts = [(len(part.steps), part.cut) for lane in found for part in stored_frames.episode_parts(lane)]
    assert parts == [(8, STILL_GOING), (11, BEGAN_EARLIER)]


KINDS = {
    "packed lanes and steps": ("replay.lanes_per_item=2", "replay.steps_per_item=4", "agent.n_step=3"),
    "one window an item": ("replay.lanes_per_item=1", "replay.steps_per_item=1"),
    "stacks": ("environment.frame_stack=3", "agent.n_step=2", "replay.steps_per_item=2"),
    "sequences": (
        'agent.kind="r2d2"', "agent.lstm_units=2", "agent.burn_in=2", "agent.sequence=5", "agent.period=3",
        "agent.n_step=2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", list(KINDS))
def test_what_a_writer_wrote_is_read_back_from_the_servers_checkpoint(
    serve: Callable[..., Any], make_experiment: Callable[..., Experiment], kind: str
) -> None:
    experiment = make_experiment(*KINDS[kind])
    layout = FrameLayout.of(experiment, SPECS)
    server, lanes, steps = serve(experiment, SPECS), 4, 40
    plain = lived(lanes, [3, 7, 2, 5], steps, 0)
    frames = np.stack([layout.empty(lanes) for _ in range(steps)])
    for name in plain.dtype.names:
        frames[name] = plain[name]
    frames["gradient_steps"] = np.arange(steps)[:, None]  # a frame's step, and
    frames["action"] = np.arange(lanes)  # its lane
    after = experiment.window - experiment.lead - 1  # frames that complete windows: padding, as a collector's end has
    frames["step_type"][steps - after :] = frames["next_step_type"][steps - after :] = LAST
    writer = write_frames(server, experiment, layout, frames)
    source = server.save()

    items = list(reverb_checkpoint.items(source, layout.table))
    chunks = {chunk.key: Chunk(chunk.first, chunk.steps()) for chunk in reverb_checkpoint.chunks(source)}
    cut = ItemShape(experiment.lead, experiment.steps_per_item * experiment.agent.stride)
    found = list(stored_frames.lanes(([Slice(*part) for part in item.slices] for item in items), chunks, layout, cut))

    assert len(items) == server.tally().present
    assert sorted(int(lane.frames["action"][lane.stored][0]) for lane in found) == list(range(lanes))
    for lane in found:
        own = lane.frames[lane.stored & ~stored_frames.is_padding(lane.frames)]
        index = int(own["action"][0])
        assert own.tobytes() == frames[: len(own), index].tobytes()
        assert len(own) == steps - after
        if experiment.agent.stride == 1:
            assert len(own) * lanes == writer.book.confirmed_windows
    writer.close()


def test_reverbs_own_sampler_gives_the_bytes_that_are_read_from_disk(
    serve: Callable[..., Any], make_experiment: Callable[..., Experiment]
) -> None:
    experiment = make_experiment("replay.lanes_per_item=2", "agent.n_step=2")
    server = serve(experiment, SPECS)
    write_frames(server, experiment, LAYOUT, lived(4, [3, 4], 12, 0)).close()
    source = server.save()
    chunks = {chunk.key: chunk.steps() for chunk in reverb_checkpoint.chunks(source)}
    items = {item.key: item for item in reverb_checkpoint.items(source, LAYOUT.table)}
    for sample in server.client.sample(LAYOUT.table, 20, emit_timesteps=False):
        slices = items[sample.info.key].slices
        read = np.concatenate([chunks[key][offset : offset + length] for key, offset, length in slices])
        assert read.tobytes() == sample.data[0].tobytes()


def test_what_is_not_compressed_is_refused() -> None:
    for data in (b"", b"\xff" * 20, b"\x05abc"):
        with pytest.raises(ValueError, match="Snappy"):
            snappy.uncompressed(data)
    assert snappy.uncompressed(b"\x03\x08abc") == b"abc"
