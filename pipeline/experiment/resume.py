"""What `--resume` may change in an experiment, and why it may not change the rest. No TensorFlow here."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from pipeline.experiment import config
from pipeline.experiment.config import UsageError
from pipeline.experiment.sections import Experiment

log = logging.getLogger(__name__)

_NETWORK = "the stored weights are of a network of another shape or meaning"
_ENVIRONMENT = "the stored frames are of another environment"
REFUSED = {
    "agent.kind": _NETWORK,
    **{
        f"environment.{name}": _ENVIRONMENT
        for name in (
            "id",
            "import_path",
            "kwargs",
            "engine",
            "frame_skip",
            "frame_stack",
            "previous_step",
            "max_episode_steps",
            "mask_key",
            "shield",
        )
    },
    "environment.image_keys": _NETWORK,
    "environment.image_layout": _NETWORK,
    "agent.optimizer": "the stored moments are of another optimizer",
    "agent.initial_policy": "a run begins with these weights once, and goes on from its checkpoints",
    "replay.shards": "the replay's servers keep their contents, each its own",
    "offline.dataset": "the run's checkpoints hold what it learns from",
}
"""Fields that have to stay, by why, beside those that a kind of agent names itself (`KindOfAgent.shapes_network`).

All others may change, as long as the items of the replay keep their shape.
"""


_EACH_FOR_ITSELF = (
    "stop.",
    "checkpoint.",
    "collect.devices",
    "collect.inference",
    "replay.port",
    "replay.private",
    "replay.weights_port",
    "replay.shards",
)
"""Fields that say nothing of what a collector or an evaluator does."""


def resumed(stored: Experiment, experiment: Experiment, run_dir: Path | str) -> Experiment:
    """The experiment with which a run goes on: as it is asked for, with the shape of the items that the run has stored.

    Args:
      stored: of the run.
      experiment: that it is to go on with.
      run_dir: of the run, or the URL of its mirror, for messages.

    Raises:
      UsageError: it cannot go on with this one.
    """
    experiment = with_stored_item_shape(stored, experiment)
    if sentences := refusals(stored, experiment):
        raise UsageError(f"{run_dir} cannot be resumed so: {'; '.join(sentences)}")
    config.validate(experiment)
    if changed := changes(stored, experiment):
        log.warning("%s is resumed with other values of %s", run_dir, ", ".join(changed))
    return experiment


def with_stored_item_shape(stored: Experiment, experiment: Experiment) -> Experiment:
    """An experiment whose items are those of a run's replay, where it leaves their shape open.

    Else another batch or number of lanes would ask for other items. What it sets itself stays.
    """
    wanted, have = experiment.replay, stored.replay
    is_open = not (wanted.lanes_per_item or wanted.steps_per_item) and wanted.prioritized == have.prioritized
    if not is_open or experiment.agent.on_policy or _shape(stored)[:2] == _shape(experiment)[:2]:
        return experiment
    lanes, steps = stored.lanes_per_item, stored.steps_per_item
    replay = msgspec.structs.replace(wanted, lanes_per_item=lanes, steps_per_item=steps)
    return msgspec.structs.replace(experiment, replay=replay)


def refusals(stored: Experiment, experiment: Experiment) -> list[str]:
    """Why a run cannot go on as another experiment, each in words; empty where it can."""
    changed = _changes(stored, experiment)
    shaping = {f"agent.{field}" for field in shaping_fields(type(stored.agent))}
    by_reason: dict[str, list[str]] = {}
    for name, old, _ in changed:
        top = ".".join(name.split(".")[:2])
        if top in shaping:
            by_reason.setdefault(_NETWORK, []).append(f"{name} was {old!r}")
        elif top in REFUSED:
            by_reason.setdefault(REFUSED[top], []).append(f"{name} was {old!r}")
    sentences = [f"{reason}: {', '.join(names)}" for reason, names in by_reason.items()]
    if "agent.kind" in dict.fromkeys(name for name, *_ in changed):  # fields that only follow from it are not listed
        return [f"{_NETWORK}: agent.kind was {stored.agent.kind!r}"]
    return sentences + list(_of_items(stored, experiment))


def shaping_fields(kind: type) -> set[str]:
    """Names in `shapes_network` of a kind's configuration and of all that it derives from."""
    return {name for base in kind.__mro__ for name in vars(base).get("shapes_network", ())}


def changes(stored: Experiment, experiment: Experiment) -> list[str]:
    """Every field that differs, as "name=new (was old)".

    `replay.private` that is left open is none: the run's own config says what its launcher has made of it.
    """
    found = [each for each in _changes(stored, experiment) if (each[0], each[2]) != ("replay.private", "auto")]
    return [f"{name}={new!r} (was {old!r})" for name, old, new in found]


def refuse_other_config(experiment: Experiment, learners: str) -> None:
    """Refuses to take part in the run of another experiment.

    Args:
      experiment: of this role.
      learners: the learner's, as TOML; empty does not say.

    Raises:
      UsageError: they differ in more than what each host has for itself.
    """
    if not learners:
        return
    theirs = config.parse(learners, source="the learner's config")
    changed = [
        (name, mine, other)
        for name, other, mine in _changes(theirs, experiment)
        if not name.startswith(_EACH_FOR_ITSELF)
    ]
    if max(1, theirs.replay.shards) != max(1, experiment.replay.shards):
        changed.append(("the number of --replay addresses", experiment.replay.shards, theirs.replay.shards))
    if changed:
        name, mine, other = changed[0]
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        raise UsageError(
            f"this role was started with {name}={mine!r} and the learner with {other!r}{more}: give all roles the same "
            "--config, --set and --seed"
        )


def differences(old: Experiment, new: Experiment) -> list[str]:
    """Dotted names of the fields in which two experiments differ."""
    names: list[str] = []

    def compare(a: Any, b: Any, prefix: str) -> None:
        for key in sorted({*a, *b}):
            if isinstance(a.get(key), dict) and isinstance(b.get(key), dict):
                compare(a[key], b[key], f"{prefix}{key}.")
            elif a.get(key) != b.get(key):
                names.append(f"{prefix}{key}")

    compare(msgspec.to_builtins(old), msgspec.to_builtins(new), "")
    return names


def _of_items(stored: Experiment, experiment: Experiment) -> Iterator[str]:
    if experiment.window != stored.window:
        yield (
            f"the stored items hold windows of {stored.window} frames, and this agent learns from "
            f"{experiment.window}: keep agent.n_step (or their sum with agent.sequence and agent.burn_in, or "
            "agent.rollout)"
        )
    elif stored.agent.on_policy and experiment.collect.lanes != stored.collect.lanes:
        yield f"its queue holds sequences of {stored.collect.lanes} lanes together: set collect.lanes so"
    elif _shape(stored) != _shape(experiment):
        lanes, steps, _ = _shape(stored)
        yield (
            f"the stored items have {lanes} lanes and {steps} steps each, and this experiment's have "
            f"{experiment.lanes_per_item} and {experiment.steps_per_item}: set replay.lanes_per_item={lanes} and "
            f"replay.steps_per_item={steps}"
        )


def _shape(experiment: Experiment) -> tuple[int, int, int]:
    return experiment.lanes_per_item, experiment.steps_per_item, experiment.window


def _changes(stored: Experiment, experiment: Experiment) -> list[tuple[str, Any, Any]]:
    """Name, old and new value of every field that differs."""
    old, new = msgspec.to_builtins(stored), msgspec.to_builtins(experiment)
    return [(name, _value(old, name), _value(new, name)) for name in differences(stored, experiment)]


def _value(tree: Any, name: str) -> Any:
    for part in name.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return list(tree) if isinstance(tree, tuple) else tree
