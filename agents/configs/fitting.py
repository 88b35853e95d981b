"""What does not fit together of the fields that most configs leave at their defaults; imported where one is given."""

import itertools
import math
from typing import Any, NamedTuple

import msgspec

from agents.config_fields import KindConfig, Schedule


def problem(config: KindConfig) -> str:
    """What is wrong with a configuration's schedules, optimizer and network, in a sentence; empty if nothing is."""
    names = {field.name for field in msgspec.structs.fields(config)}
    sentences = [_of_schedule(config, name) for name in sorted(names) if name.endswith("_schedule")]
    if "learning_rate_schedule" in names:
        sentences += [_rising_learning_rate(config), _of_learning_rate(config)]
    if "munchausen_temperature_schedule" in names:
        sentences.append(_of_temperature(config))
    if "optimizer" in names:
        sentences += [_of_network(config), _of_optimizer(config)]
    return next(filter(None, sentences), "")


class _Range(NamedTuple):
    """The values that a scheduled field could have."""

    least: float
    largest: float
    is_open: bool
    """Whether the least one is none of them."""
    words: str


_RANGES = {
    "n_step": _Range(1, 100, False, "a whole number from 1 to 100"),
    "discount": _Range(0.0, 1.0, False, "a number from 0 to 1"),
    "learning_rate": _Range(0.0, math.inf, True, "a number above 0"),
    "munchausen_temperature": _Range(0.0, math.inf, True, "a number above 0"),
}
_SHARE = _Range(0.0, 1.0, True, "a number above 0 and at most 1")


def _of_schedule(config: Any, name: str) -> str:
    field, schedule = name.removesuffix("_schedule"), getattr(config, name)
    steps = (0, *(step for step, _ in schedule.points))
    if any(after <= before for before, after in itertools.pairwise(steps)):
        return f"{name}.points must rise in their gradient steps, from above 0, and are at {[*steps[1:]]}"
    wanted = _SHARE if field == "learning_rate" and config.kind == "q_learning" else _RANGES[field]
    for _, value in schedule.points:
        within = wanted.least <= value <= wanted.largest and not (wanted.is_open and value == wanted.least)
        if not (within and math.isfinite(value)) or (field == "n_step" and value != int(value)):
            return f"{name}.points has the value {value:g}: {wanted.words} is wanted"
    if field == "discount" and schedule.shape == "exponential" and 1.0 in schedule.values(config.discount):
        return "discount_schedule.shape='exponential' moves 1 - discount by factors, and 0 has none: stay below 1"
    if not schedule.points and schedule != Schedule():
        return f"{name}.shape is given without {name}.points: give these, or leave it out"
    return ""


def _rising_learning_rate(config: Any) -> str:
    initial, final, steps = config.learning_rate, config.learning_rate_final, config.learning_rate_decay_steps
    if not steps or final <= initial:
        return ""
    return (
        f"learning_rate={initial:g} would rise to learning_rate_final={final:g} in {steps} updates: set "
        f"learning_rate_final to at most {initial:g}, or learning_rate_decay_steps=0"
    )


def _of_learning_rate(config: Any) -> str:
    steps = config.learning_rate_decay_steps
    if not (config.learning_rate_schedule.points and steps):
        return ""
    return f"learning_rate_schedule and learning_rate_decay_steps={steps} both move the step size: leave one out"


def _of_temperature(config: Any) -> str:
    if config.munchausen or not config.munchausen_temperature_schedule.points:
        return ""
    return "munchausen_temperature_schedule is of munchausen=true, which is false"


def _of_network(config: Any) -> str:
    norm, noisy = config.spectral_norm, getattr(config, "noisy", False)
    if noisy and (config.residual or norm in ("last_hidden", "all")):
        what = "residual=true" if config.residual else f"spectral_norm={norm!r}"
        return f"noisy layers have no form with {what}: set noisy=false, or leave it out"
    if norm == "residual" and not (config.residual or config.image_torso == "impala"):
        return "spectral_norm='residual' finds no residual blocks: set image_torso='impala', or residual=true"
    if norm == "last_hidden" and not config.hidden_units:
        return "spectral_norm='last_hidden' finds no hidden layer: set hidden_units"
    if config.residual and norm == "last_hidden":
        return "spectral_norm='last_hidden' with residual=true is of no layer: set spectral_norm='residual'"
    if config.torso and (config.torso_width > 1 or config.torso_pooling != "none"):
        return "torso_width and torso_pooling are of image_torso, and torso is in its place: leave them out"
    if config.torso_pooling == "none" and config.torso_cells != 6:
        return "torso_cells is read with torso_pooling alone: set it to 'max' or 'average'"
    return ""


_READ_BY = {
    "adam_epsilon": ("adam", "adamw", "radam"),
    "rmsprop_decay": ("rmsprop",),
    "rmsprop_epsilon": ("rmsprop",),
    "weight_decay": ("adamw", "radam", "rmsprop"),
}
"""The optimizers that read a field."""


_OPTIMIZERS = ("adam", "adamw", "radam", "rmsprop")


def _of_optimizer(config: Any) -> str:
    chosen = config.optimizer
    if chosen not in _OPTIMIZERS:  # one of the user's is given the whole configuration
        from agents.extensions import unknown

        sentence = unknown("optimizers", chosen, _OPTIMIZERS)
        return sentence and f"optimizer={chosen!r}: {sentence}"
    for field in msgspec.structs.fields(config):
        if chosen not in _READ_BY.get(field.name, (chosen,)) and getattr(config, field.name) != field.default:
            readers = " or ".join(f"optimizer={reader!r}" for reader in _READ_BY[field.name])
            return f"optimizer={chosen!r} reads no {field.name}: leave it at {field.default:g}, or set {readers}"
    if chosen == "adamw" and not config.weight_decay:
        return "optimizer='adamw' without weight_decay is Adam: set weight_decay, such as 0.01, or optimizer='adam'"
    return ""
