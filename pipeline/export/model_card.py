"""The page beside an exported policy: what it is, what it takes and returns, how good it was, where it comes from."""

import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from pipeline.acting.policy_files import Policy
from pipeline.experiment import config
from pipeline.experiment.sections import Experiment
from pipeline.export.interface import ACTION, MASK, NEXT_STATE, STATE, Interface, Tensor
from pipeline.records.results import Summary

_PACKAGES = ("reverb-dqn", "tensorflow", "tf-agents", "numpy", "gymnasium")


class Origin(NamedTuple):
    """Where an exported policy comes from."""

    run: str
    """Directory of the run."""
    which: str
    """Of its policies, "best" or "latest"."""
    experiment: Experiment
    policy: Policy
    summary: Summary | None
    """None of a run that has not ended."""


def model_card(origin: Origin, interface: Interface, files: Mapping[Path, str], missing: Mapping[Path, str]) -> str:
    """The page as Markdown.

    Args:
      origin: where the policy comes from.
      interface: what it takes and returns.
      files: what was written, and what each is.
      missing: what could not be made, and why.
    """
    experiment = origin.experiment
    name = experiment.environment.id or experiment.environment.import_path
    lines = [
        f"# {experiment.agent.kind} for {name}",
        "",
        f"The greedy policy `{origin.which}` of the run `{origin.run}`, exported from reverb-dqn.",
        "",
        "## Results",
        "",
        *_table(("", ""), _results(origin)),
        "",
        "## Files",
        "",
        *_table(("file", "is"), [(f"`{path}`", what) for path, what in files.items()]),
        "",
        *[f"There is no `{path}`: {why}." for path, why in missing.items()],
        "",
        "## Inputs and outputs",
        "",
        f"Signature `serving_default`; the batch size B is free. `{ACTION}` is the allowed action of largest "
        f"`{interface.scores}`, the first of equals, as the environment numbers actions{_by_dimension(interface)}; "
        f"`{interface.scores}` are those of all actions, forbidden ones included.",
        "",
        *_table(("input", "dtype", "shape", "is"), _described(interface.inputs(), _inputs(interface))),
        "",
        *_table(("output", "dtype", "shape", "is"), _described(interface.outputs(), _outputs(interface))),
        "",
        *_notes(interface),
        "```python",
        "import tensorflow as tf",
        "",
        f'policy = tf.saved_model.load("saved_model/1").signatures["{"serving_default"}"]',
        f"policy({', '.join(f'{each}=...' for each in interface.inputs())})  # tensors [B, ...]",
        "```",
        "",
        "## Versions",
        "",
        *_table(("", ""), [("Python", platform.python_version()), *((each, _version(each)) for each in _PACKAGES)]),
        "",
        "## Configuration",
        "",
        "```toml",
        config.dump(experiment).strip(),
        "```",
    ]
    return "\n".join(lines) + "\n"


def _results(origin: Origin) -> list[tuple[str, str]]:
    policy, evaluation = origin.policy, origin.experiment.evaluation
    rows = [
        (f"mean return of {evaluation.episodes} greedy episodes (seed {evaluation.seed})", f"{policy.mean_return:g}"),
        ("environment steps", f"{policy.environment_steps:,}"),
        ("gradient steps", f"{policy.gradient_steps:,}"),
    ]
    if (summary := origin.summary) is not None:
        rows += [
            ("the run: solved", "yes" if summary.solved else "no"),
            ("the run: ended by", summary.stop_reason),
            ("the run: environment steps", f"{summary.environment_steps:,}"),
            ("the run: seconds of training", f"{summary.train_seconds:.0f}"),
            ("the run: seed", str(summary.seed)),
        ]
    return rows


def _inputs(interface: Interface) -> dict[str, str]:
    stack = "" if interface.frames == 1 else f", the newest {interface.frames} side by side, the oldest first"
    said = {each.name: f"observation {leaf or ''}".strip() + stack for leaf, each in interface.leaves.items()}
    said[MASK] = "true where an action is allowed"
    said[STATE] = "zeros where an episode begins, then `next_state` of the call before"
    return said


def _outputs(interface: Interface) -> dict[str, str]:
    sizes = interface.action_sizes
    bounds = [(first, first + size - 1) for first, size in zip(interface.first_actions, sizes, strict=True)]
    each = ", ".join(f"{low} to {high}" for low, high in bounds)
    return {
        ACTION: each or f"from {interface.first_action} to {interface.first_action + interface.num_actions - 1}",
        interface.scores: f"one a choice: {', '.join(map(str, sizes))} of the dimensions" if sizes else "one an action",
        NEXT_STATE: "`state` of the episode's next call",
    }


def _by_dimension(interface: Interface) -> str:
    return ", each dimension by itself" if interface.action_sizes else ""


def _notes(interface: Interface) -> list[str]:
    notes = []
    if interface.frames > 1:
        notes.append("Before an episode's first observation a stack has zeros, of categories the least.")
    if interface.shield_inside:
        notes.append(f"The shield `{interface.shield}` is inside: what it forbids is never returned.")
    elif interface.shield:
        notes.append(
            f"**The shield `{interface.shield}` is not inside**, as it is a Python function that no graph can hold. "
            f"Call it with the newest observation, and give what it allows as `{MASK}`"
            + (", joined by `and` with the environment's own mask. " if interface.masked else ". ")
            + "`python -m pipeline.serve` calls it by itself."
        )
    return [line for note in notes for line in (note, "")]


def _described(tensors: Mapping[str, Tensor], said: Mapping[str, str]) -> list[tuple[str, ...]]:
    return [
        (f"`{name}`", each.dtype, f"[{', '.join(map(str, ('B', *each.shape)))}]", said[name])
        for name, each in tensors.items()
    ]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows)]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # run from a copy of the sources
        return "not installed"
