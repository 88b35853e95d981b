"""Reads the replay of a run from its newest whole checkpoints."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from agents import Specs, extensions
from pipeline import environments
from pipeline.datasets import stored_frames
from pipeline.datasets.replay_summary import share
from pipeline.datasets.stored_frames import Lane, is_padding, is_step
from pipeline.experiment.config import UsageError
from pipeline.experiment.resume import refuse_other_config
from pipeline.experiment.run_directory import RunDirectory
from pipeline.experiment.sections import Experiment
from pipeline.messages.role_words import where_roles
from pipeline.records import checkpoint
from pipeline.records.checkpoint import Checkpoint
from pipeline.records.counters import NOTHING, Counters, Tally
from pipeline.replay import reverb_checkpoint
from pipeline.replay.frames import FrameLayout
from pipeline.replay.reverb_checkpoint import StoredItem


class StoredReplay(NamedTuple):
    """A replay that was read from disk; all its frames are in memory."""

    experiment: Experiment
    layout: FrameLayout
    checkpoints: list[Checkpoint]
    """That hold it: one, or one of each of its servers that has any here."""
    counters: Counters
    """The run's when its learner's checkpoint was written; of a server's own directory there are none."""
    tally: Tally
    """The servers' own counts, of items."""
    items: list[StoredItem]
    """The oldest first."""
    lanes: list[Lane]

    @property
    def windows(self) -> int:
        """Stored windows, as the ledger counts them.

        One begins in every frame, also in an episode's last; sequences begin at every `stride` frames.
        """
        experiment = self.experiment
        if experiment.agent.stride > 1:
            return len(self.items) * experiment.windows_per_item
        return sum(int(np.count_nonzero(lane.stored & ~is_padding(lane.frames))) for lane in self.lanes)

    @property
    def ends(self) -> int:
        """Stored frames with the last observation of an episode."""
        return sum(
            int(np.count_nonzero(lane.stored & ~is_padding(lane.frames) & ~is_step(lane))) for lane in self.lanes
        )

    def sizes(self) -> list[tuple[str, str]]:
        """How much there is and where it was read from: names and values for a table."""
        experiment, counters = self.experiment, self.counters
        shards = max(1, experiment.replay.shards)
        sizes = [(f"checkpoint of {each.manifest.written_at}", str(each.path)) for each in self.checkpoints]
        if len(self.checkpoints) < shards:
            sizes.append(("servers without a checkpoint here", f"{shards - len(self.checkpoints)} of {shards}"))
        if counters.gradient_steps or counters.environment_steps:
            taken = f"{counters.gradient_steps:,}, {counters.environment_steps:,}"
            sizes.append(("gradient steps, environment steps", taken))
            sizes.append(("episodes dropped by faults of the environment", f"{counters.dropped_episodes:,}"))
        sizes += [
            ("windows", f"{share(self.windows, experiment.replay.capacity)} of {experiment.replay.capacity:,}"),
            (
                "items",
                f"{len(self.items):,} of {experiment.lanes_per_item} lanes and {experiment.steps_per_item} steps",
            ),
            ("items inserted, removed, sampled", f"{self.tally.inserted:,}, {self._removed:,}, {self.tally.sampled:,}"),
            ("items never sampled", share(sum(not item.times_sampled for item in self.items), len(self.items))),
            ("bytes on disk", f"{sum(map(_size, self.checkpoints)):,}"),
            ("bytes in memory, uncompressed", f"{sum(lane.frames.nbytes for lane in self.lanes):,}"),
            ("lanes", f"{len(self.lanes):,}"),
            *((f"windows lost: {name}", f"{count:,}") for name, count in counters.lost.items() if count),
        ]
        if paid_by := experiment.exploration.paid_by:
            sizes.append(("rewards", f"with the bonus of {paid_by}"))
        return sizes

    @property
    def _removed(self) -> int:
        return self.tally.inserted - self.tally.present

    def of_items(self) -> dict[str, list[float]]:
        """Statistics of items, by name."""
        newest, per_item = len(self.items), self.experiment.windows_per_item
        return {
            "age in windows inserted": [(newest - place) * per_item for place in range(newest)],
            "priority of an item": [item.priority for item in self.items],
            "times that an item was sampled": [item.times_sampled for item in self.items],
        }


def _size(found: Checkpoint) -> int:
    return sum(record.size for name, record in found.manifest.files.items() if name.startswith(found.replay.name))


def read(path: Path) -> StoredReplay:
    """Reads the replay of a run.

    Args:
      path: the run's directory, or that of one of its replay's servers.

    Raises:
      UsageError: there is none, or it cannot be read.
    """
    run = RunDirectory(path.resolve())
    experiment = run.experiment()
    if experiment.agent.on_policy:
        raise UsageError(
            f"{path}: a run of agent.kind={experiment.agent.kind!r} keeps no experience: name one of a kind that does"
        )
    own = checkpoint.newest(run.checkpoints)
    shards = [checkpoint.newest(_of_shard(run, index).checkpoints) for index in range(experiment.replay.shards)]
    found = [each for each in (own, *shards) if each is not None and each.replay.is_dir()]
    if not found and (elsewhere := _elsewhere(run, experiment)):
        raise UsageError(f"{path}: its replay's servers have their checkpoints: {elsewhere}")
    if not found:
        raise UsageError(
            f"{path}: there is no whole checkpoint of a replay yet: wait for one (checkpoint.every_seconds)"
        )
    layout = FrameLayout.of(experiment, _specs(experiment, run))
    try:
        return _read(experiment, layout, found, own.counters if own is not None else Counters())
    except (ValueError, tf.errors.OpError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"{path}: its replay cannot be read: {reason}. Does the environment observe what it did in the run?"
        ) from None


def _of_shard(run: RunDirectory, index: int) -> RunDirectory:
    """The directory of one of the replay's servers: in the run's, or where one that was started by hand has its own."""
    within = RunDirectory(run.shard(index))
    where = where_roles(run).get(f"replay-{index}")
    if within.path.is_dir() or where is None or not where.folder:
        return within
    own = RunDirectory(Path(where.folder))
    try:
        refuse_other_config(own.experiment(), run.config.read_text())
    except (UsageError, OSError):  # it is on another host, or another run has begun there
        return within
    return own


def _elsewhere(run: RunDirectory, experiment: Experiment) -> str:
    """Where servers that were started by hand keep their checkpoints, and what to do; empty if none is known."""
    roles = where_roles(run)
    known = [(index, roles[name]) for index in range(experiment.replay.shards) if (name := f"replay-{index}") in roles]
    if not known:
        return ""
    places = ", ".join(f"{where.folder} on {where.host}" for _, where in known)
    return f"{places}. Give that as --run_dir there, or copy it to {run.shard(known[0][0])}"


def _specs(experiment: Experiment, run: RunDirectory) -> Specs:
    """What the environment gives now; where its code is not trusted, what the run has noted of it."""
    try:
        if extensions.distrusted.get():
            return environments.described(experiment.environment, run.specs)
        return environments.describe(experiment.environment)
    except environments.EnvironmentFault as fault:
        raise UsageError(str(fault)) from None


def returns(found: Checkpoint, experiment: Experiment, specs: Specs) -> list[float]:
    """The undiscounted returns of the whole episodes that a checkpoint's replay holds; no observation stays in memory.

    Args:
      found: with a replay.
      experiment: of the run that wrote it.
      specs: of its environment.
    """
    layout = FrameLayout.of(experiment, specs)
    narrow = FrameLayout(specs._replace(observation={}, masked=False))  # the fields behind observation and mask
    cut = stored_frames.ItemShape(experiment.lead, experiment.steps_per_item * experiment.agent.stride)
    refers = [
        [stored_frames.Slice(*part) for part in item.slices]
        for item in reverb_checkpoint.items(found.replay, layout.table)
    ]
    wanted, chunks = {part.chunk for slices in refers for part in slices}, {}
    for chunk in reverb_checkpoint.chunks(found.replay):
        if chunk.key in wanted:
            frames = chunk.steps().view(layout.dtype)
            kept = np.empty(frames.shape, narrow.dtype)
            for name, _ in narrow.fields():
                kept[name] = frames[name]
            chunks[chunk.key] = stored_frames.Chunk(chunk.first, kept.view(np.uint8))
    lanes = stored_frames.lanes(refers, chunks, narrow, cut)
    whole = (part for lane in lanes for part in stored_frames.episode_parts(lane) if not part.cut)
    return [float(part.steps["reward"].sum(dtype=np.float64)) for part in whole]


def _read(experiment: Experiment, layout: FrameLayout, found: list[Checkpoint], counters: Counters) -> StoredReplay:
    cut = stored_frames.ItemShape(experiment.lead, experiment.steps_per_item * experiment.agent.stride)
    tally, items, lanes = NOTHING, list[StoredItem](), list[Lane]()
    for each in found:
        counted = reverb_checkpoint.tally(each.replay, layout.table)
        tally = Tally(*(sum(counts) for counts in zip(tally, counted, strict=True)))
        own = list(reverb_checkpoint.items(each.replay, layout.table))
        wanted = {key for item in own for key, _, _ in item.slices}
        chunks = {
            chunk.key: stored_frames.Chunk(chunk.first, chunk.steps())
            for chunk in reverb_checkpoint.chunks(each.replay)
            if chunk.key in wanted
        }
        refers = ([stored_frames.Slice(*part) for part in item.slices] for item in own)
        lanes += stored_frames.lanes(refers, chunks, layout, cut)
        items += own
    return StoredReplay(
        experiment, layout, found, counters, tally, sorted(items, key=lambda item: item.inserted_at), lanes
    )
