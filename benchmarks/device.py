"""What a device makes of gradient steps: both loops, both precisions, and what bringing batches to it costs.

Example:
  python -m benchmarks.device --out=device.json

For a machine whose accelerator nobody here has seen: run it there, about five minutes, and send the JSON. It has, for
the networks of three configs, gradient steps and pictures (or vectors) a second by each loop in each precision, with
the batches on the device before (`resident`) and brought there for each call (`from_host`). Half of the difference is
what drawing ahead onto the device could save. Without an accelerator it measures the CPU in the same way.
"""

import functools
import itertools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from absl import flags

from agents import Specs
from agents.specs import ArraySpec
from benchmarks.measure import machine, median, rates
from pipeline import load
from pipeline.command import run_command
from pipeline.experiment.config import UsageError
from pipeline.experiment.sections import Experiment
from pipeline.learner.learner import Learner
from pipeline.replay.frames import FrameLayout
from pipeline.replay.sampling import Sample, decode

_OUT = flags.DEFINE_string("out", "", "File that is written; empty prints alone.")
_SECONDS = flags.DEFINE_float("seconds", 1.0, "Of one measurement.", lower_bound=0.01)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Measurements of each.", lower_bound=1)
_SHOWN = flags.DEFINE_list("configs", ["cartpole_dqn", "minatar_breakout", "pong"], "Whose networks are measured.")
_SET = flags.DEFINE_multi_string("set", [], "A line of TOML that overrides the configs.")

_STEPS = 8
"""Gradient steps of a call."""
SPECS = {
    "cartpole_dqn": Specs(ArraySpec((4,), "float32"), 2),
    "minatar_breakout": Specs(ArraySpec((10, 10, 4), "uint8", (1,)), 6),
    "pong": Specs(ArraySpec((84, 84), "uint8", (255,), "HW"), 6),
}
"""What the configs' environments show, so that none of them need be installed."""


def main(_: list[str]) -> int:
    """Measures all forms of each network in turn."""
    if unknown := [name for name in _SHOWN.value if name not in SPECS]:
        raise UsageError(f"--configs: there is no {unknown[0]!r}; there are {', '.join(SPECS)}")
    out = Path(_OUT.value) if _OUT.value else None
    if out is not None and not out.absolute().parent.is_dir():
        raise UsageError(f"--out={out}: there is no folder {out.absolute().parent}")
    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus]
    result: dict[str, Any] = {
        "machine": machine(),
        "accelerators": details,
        "tensorflow": tf.__version__,
        "seconds_a_measurement": _SECONDS.value,
        "repeats": _REPEATS.value,
        "rows": [],
    }
    for name in _SHOWN.value:
        for row in _rows(name):
            result["rows"].append(row)
            print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    text = json.dumps(result, indent=1)
    if out is not None:
        out.write_text(text + "\n")
    print(text if out is None else f"{len(result['rows'])} rows in {out}")
    return 0


def _rows(name: str) -> list[dict[str, Any]]:
    calls: dict[str, Callable[[], int]] = {}
    problems: list[dict[str, Any]] = []
    seconds: dict[str, float] = {}
    size = batch = 0
    for loop, precision in itertools.product(("compiled", "plain"), ("float32", "bfloat16")):
        fixed = (f'learner.loop="{loop}"', f'learner.precision="{precision}"', f"learner.steps_per_call={_STEPS}")
        experiment = load(name, (*_SET.value, *fixed))
        started = time.perf_counter()
        learner = Learner(experiment, SPECS[name])
        on_host, resident = _sample(experiment, SPECS[name])
        learner.choose_loop()
        if learner.loop != loop:
            problems.append({"config": name, "loop": loop, "precision": precision, "problem": "XLA refuses it"})
            continue
        seconds[f"{loop} {precision}"] = round(time.perf_counter() - started, 2)
        batch = experiment.learner.batch_size
        size = sum(leaf.nbytes for leaf in tf.nest.flatten(on_host.trajectory))
        calls[f"{loop} {precision} resident"] = functools.partial(_learn, learner, resident)
        calls[f"{loop} {precision} from_host"] = functools.partial(_learn_from_host, learner, on_host)
    for call in calls.values():
        call()
    rows = rates(calls, _SECONDS.value, _REPEATS.value)
    return [
        *problems,
        *(
            {
                "config": name,
                **dict(zip(("loop", "precision", "batches"), form.split(), strict=True)),
                "gradient_steps_per_second": median(values),
                "observations_per_second": round(median(values) * batch),
                "least": float(f"{min(values):.4g}"),
                "most": float(f"{max(values):.4g}"),
                "bytes_of_a_call": size,
                "start_up_seconds": seconds[form.rpartition(" ")[0]],
            }
            for form, values in rows.items()
        ),
    ]


def _learn(learner: Learner, sample: Sample) -> int:
    learner.learn(sample)
    return _STEPS


def _learn_from_host(learner: Learner, sample: Sample) -> int:
    return _learn(learner, sample._replace(trajectory=tf.nest.map_structure(tf.constant, sample.trajectory)))


def _sample(experiment: Experiment, specs: Specs) -> tuple[Sample, Sample]:
    """Random batches of one call, as NumPy's arrays and as the device's tensors."""
    layout, learner = FrameLayout.of(experiment, specs), experiment.learner
    shape = (learner.steps_per_call, learner.batch_size, experiment.window, layout.num_bytes)
    random = np.random.default_rng(0)
    trajectory, versions = decode(tf.constant(random.integers(0, 2, shape, np.uint8)), layout)
    trajectory = trajectory._replace(
        step_type=tf.ones_like(trajectory.step_type),
        next_step_type=tf.ones_like(trajectory.step_type),
        reward=tf.constant(random.normal(size=trajectory.reward.shape), tf.float32),
        action=tf.constant(random.integers(0, specs.num_actions, trajectory.action.shape)),
        discount=tf.ones_like(trajectory.discount),
    )
    if (observation := trajectory.observation).dtype == tf.float32:
        observation = tf.constant(random.normal(size=observation.shape), tf.float32)
        trajectory = trajectory._replace(observation=observation)
    keys = tf.zeros((1,), tf.uint64)
    resident = Sample(trajectory, versions, tf.ones(versions.shape), keys)
    return resident._replace(trajectory=tf.nest.map_structure(lambda leaf: leaf.numpy(), trajectory)), resident


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
