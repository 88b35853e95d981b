"""Sizes of a run, computed before it starts from its config and the environment's specs: rows, weights and bytes."""

import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from agents import ArraySpec, DqnConfig, Specs
from pipeline.experiment.config import UsageError
from pipeline.experiment.sections import Experiment
from pipeline.replay.frames import FrameLayout
from pipeline.runtime.process import GIB, available_memory

_INT32 = 2**31 - 1
_INT64 = 2**63 - 1
_FLOAT = 4
_ITEM_BYTES = 1_000
"""Of an item in Reverb's table beside its frames: its key, selectors and chunks. An item of two frames of 31 bytes took
1,130 of the server's memory."""
_COPIES = 5
"""Of a network's weights: online, target, Adam's two moments, and the gradient."""
_SAMPLES = 3
"""Samples that exist at once: learned from, waiting in the feeder, waiting in the dataset."""
_CHECKPOINTS_BESIDE = 2
"""Beside those of `checkpoint.keep`: the best, and the one that is being written."""


class Part(NamedTuple):
    """One thing that takes memory."""

    name: str
    bytes: float
    fewer: str
    """What to lower for less of it."""


class Warned(NamedTuple):
    """What is too large for this machine."""

    words: str
    remedy: str


def refuse(experiment: Experiment, specs: Specs) -> None:
    """Refuses sizes that Reverb or TensorFlow cannot count.

    Raises:
      UsageError: says which, and what to lower.
    """
    replay, learner = experiment.replay, experiment.learner
    layout = FrameLayout.of(experiment, specs)
    step, categories = experiment.lanes_per_item * layout.num_bytes, _categories(layout.agent_specs)
    rows = math.prod(categories) if experiment.agent.kind == "q_learning" else sum(categories)
    for is_wrong, sentence in (
        (
            getattr(experiment.agent, "image_torso", "") == "minatar" and _least_side(layout.agent_specs) < 3,
            "agent.image_torso='minatar' is for pictures of 3 rows and columns at least: choose another",
        ),
        (replay.capacity > _INT64, f"replay.capacity={replay.capacity} is more than can be counted: lower it"),
        (
            learner.batch_size * learner.steps_per_call > _INT32,
            f"learner.batch_size * learner.steps_per_call = {learner.batch_size * learner.steps_per_call:,} windows "
            f"are more than a call can hold, {_INT32:,}: lower learner.steps_per_call",
        ),
        (
            step > _INT32,
            f"a step of replay.lanes_per_item={experiment.lanes_per_item} lanes has {step:,} bytes, and a message at "
            f"most {_INT32:,}: lower replay.lanes_per_item, or make observations smaller",
        ),
        (
            rows * specs.num_actions > _INT32 and experiment.agent.kind == "q_learning",
            f"agent.kind='q_learning': {rows:,} states of {specs.num_actions} actions are more entries than a table "
            f"can have, {_INT32:,}: choose a kind with a network, or make observations coarser",
        ),
        (
            rows > _INT32,
            f"observations of {rows:,} categories are more than a network's input can have, {_INT32:,}: give them as a "
            "Box of numbers",
        ),
    ):
        if is_wrong:
            raise UsageError(sentence)


def parts(experiment: Experiment, specs: Specs) -> list[Part]:
    """What takes memory on the learner's machine, the largest first; upper limits, as if nothing compressed."""
    layout = FrameLayout.of(experiment, specs)
    found = [_batches(experiment, layout), _weights(experiment, layout.agent_specs)]
    if not experiment.is_offline:  # a dataset has its own size
        found.append(Part("the replay", _replay_bytes(experiment, layout), "replay.capacity"))
    return sorted(found, key=lambda part: -part.bytes)


def warnings(experiment: Experiment, specs: Specs, run_dir: Path) -> Iterator[Warned]:
    """What is larger than this machine's free memory, or the disk of the run directory."""
    found = parts(experiment, specs)
    total, free = sum(part.bytes for part in found), available_memory()
    if total > free > 0.0:
        yield Warned(f"memory: {described(found)}; {free / GIB:.1f} GiB are free", f"lower {found[0].fewer}")
    replay = next((part.bytes for part in found if part.name == "the replay"), 0.0)
    each = replay + _weights(experiment, FrameLayout.of(experiment, specs).agent_specs).bytes
    count = experiment.checkpoint.keep + _CHECKPOINTS_BESIDE
    folder = next(path for path in (run_dir.resolve(), *run_dir.resolve().parents) if path.exists())
    room = float(shutil.disk_usage(folder).free)
    if each * count > room:
        yield Warned(
            f"disk: {count} checkpoints (checkpoint.keep={experiment.checkpoint.keep}, the best, and the one being "
            f"written) take up to {each * count / GIB:.1f} GiB, less where observations compress; {room / GIB:.1f} GiB "
            f"are free in {folder}",
            "lower replay.capacity or checkpoint.keep, or choose another --run_dir",
        )


def described(found: list[Part]) -> str:
    """Parts and their sizes in words."""
    words = [f"{part.name} up to {_in_words(part.bytes)}" for part in found]
    return f"{', '.join(words)}, less where observations compress"


def _in_words(count: float) -> str:
    return f"{count / GIB:.1f} GiB" if count > GIB / 2 else f"{count / GIB * 1024:.1f} MiB"


def _replay_bytes(experiment: Experiment, layout: FrameLayout) -> float:
    agent, windows = experiment.agent, experiment.windows_per_item
    if agent.on_policy:
        items = 2 * experiment.items_per_call
        return float(items) * (windows * experiment.window * layout.num_bytes + _ITEM_BYTES)
    items = max(1, experiment.replay.capacity // windows)
    frames = items * windows * min(agent.stride, experiment.window)  # what windows share is stored once
    return float(frames) * layout.num_bytes + float(items) * _ITEM_BYTES


def _batches(experiment: Experiment, layout: FrameLayout) -> Part:
    learner = experiment.learner
    items = 2.0 * max(1, experiment.items_per_call) * experiment.item_length * experiment.lanes_per_item
    decoded = FrameLayout(layout.agent_specs, layout.state_units).num_bytes
    frames = float(learner.batch_size) * learner.steps_per_call * experiment.window
    fewer = "learner.steps_per_call" if learner.steps_per_call > 1 else "learner.batch_size"
    return Part("batches", items * layout.num_bytes + _SAMPLES * frames * decoded, fewer)


def _weights(experiment: Experiment, specs: Specs) -> Part:
    """Of the network, its copies, and its input for one batch."""
    agent, batch, actions = experiment.agent, experiment.learner.batch_size, specs.num_actions
    if agent.kind == "q_learning":
        states = math.prod(_categories(specs))
        return Part("the table", float(states) * _FLOAT * (_COPIES * actions + batch), "the number of states observed")
    torso, of_images = getattr(agent, "torso", ""), getattr(agent, "image_torso", "nature")
    widths = {name: _width(spec, torso, of_images) for name, spec in specs.leaves().items()}
    bins = agent.num_bins if isinstance(agent, DqnConfig) and agent.hl_gauss else 0
    outputs = bins or getattr(agent, "num_atoms", 0) or getattr(agent, "num_quantiles", 0) or 1
    units, inputs = getattr(agent, "hidden_units", ()), sum(widths.values())
    heads = outputs * (actions + getattr(agent, "dueling", False))
    layers = [inputs, *units]
    lstm = getattr(agent, "lstm_units", 0)
    numbers = sum(a * b for a, b in zip(layers, [*units, lstm or heads], strict=True))
    if lstm:
        numbers += 3 * layers[-1] * lstm + 4 * lstm * lstm + lstm * heads
    numbers *= 2 * getattr(agent, "heads", 0.5)  # of an ensemble each head has a prior beside it
    largest = max(widths, key=lambda name: widths[name])
    what = "categories" if specs.leaves()[largest].dtype == "int32" else "numbers"
    fewer = f"agent.hidden_units, or the {widths[largest]:,} {what} of the observation {largest}".rstrip()
    frames = batch * experiment.window
    return Part("the network", float(numbers) * _COPIES * _FLOAT + float(inputs) * frames * _FLOAT, fewer)


def _least_side(specs: Specs) -> float:
    pictures = [picture for spec in specs.leaves().values() if (picture := spec.as_picture())]
    return min((side for picture in pictures for side in picture.shape[:2]), default=math.inf)


def _categories(specs: Specs) -> list[int]:
    return [int(largest) + 1 for spec in specs.leaves().values() if spec.dtype == "int32" for largest in spec.maximum]


def _width(spec: ArraySpec, torso: str, of_images: str) -> int:
    """Features that a network's encoder makes of an array."""
    if spec.dtype == "int32":
        return sum(int(largest) + 1 for largest in spec.maximum)
    picture = None if torso else spec.as_picture()
    if picture is None:
        return math.prod(spec.shape)
    sides = picture.shape[:2]
    if of_images == "impala":
        return 32 * math.prod(-(-side // 8) for side in sides)
    if of_images == "minatar":
        return 16 * math.prod(side - 2 for side in sides)
    if min(sides) >= 36:  # see `agents.torsos.nature`
        return 64 * math.prod(((side - 8) // 4 - 2) // 2 - 1 for side in sides)
    return 64 * math.prod(-(-side // 8) for side in sides)
