"""What a device makes of gradient steps: both loops, both precisions, and what bringing batches to it costs.

Example:
  python -m benchmarks.device --out=device.json

For a machine whose accelerator nobody here has seen: run it there, about five minutes, and send the JSON. It has, for
the networks of three configs, gradient steps and pictures (or vectors) a second by each loop in each precision, with
the batches on the device before (`resident`), brought there by each call (`from_host`), and brought there early by the
thread that feeds the learner (`prefetched`), as runs do where there is an accelerator. Without one it measures the CPU
in the same way.
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
from benchmarks.live_replay import SPECS
from benchmarks.measure import machine, median, rates
from pipeline import load
from pipeline.command import run_command
from pipeline.experiment.config import UsageError
from pipeline.experiment.sections import Experiment
from pipeline.learner.feeder import Feeder
from pipeline.learner.learner import Learner
from pipeline.replay.frames import MID, FrameLayout
from pipeline.replay.sampling import Sample, arrange, item_shape

_OUT = flags.DEFINE_string("out", "", "File that is written; empty prints alone.")
_SECONDS = flags.DEFINE_float("seconds", 1.0, "Of one measurement.", lower_bound=0.01)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Measurements of each.", lower_bound=1)
_SHOWN = flags.DEFINE_list("configs", ["cartpole_dqn", "minatar_breakout", "pong"], "Whose networks are measured.")
_SET = flags.DEFINE_multi_string("set", [], "A line of TOML that overrides the configs.")

_CLOSE_SECONDS = 30.0
_STEPS = 8
"""Gradient steps of a call."""


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
    feeders: list[Feeder] = []
    device = (tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU"))[0].name
    size = batch = 0
    for loop, precision in itertools.product(("compiled", "plain"), ("float32", "bfloat16")):
        fixed = (f'learner.loop="{loop}"', f'learner.precision="{precision}"', f"learner.steps_per_call={_STEPS}")
        experiment = load(name, (*_SET.value, *fixed))
        started = time.perf_counter()
        learner = Learner(experiment, SPECS[name])
        on_host = _sample(experiment, SPECS[name])
        with tf.device(device):
            there = tf.nest.map_structure(tf.identity, on_host.trajectory)
        learner.choose_loop()
        if learner.loop != loop:
            problems.append({"config": name, "loop": loop, "precision": precision, "problem": "XLA refuses it"})
            continue
        seconds[f"{loop} {precision}"] = round(time.perf_counter() - started, 2)
        batch = experiment.learner.batch_size
        size = sum(leaf.numpy().nbytes for leaf in tf.nest.flatten(on_host.trajectory))
        feeder = Feeder(functools.partial(itertools.repeat, on_host), device=device)
        feeder.start()
        feeders.append(feeder)
        calls[f"{loop} {precision} resident"] = functools.partial(_learn, learner, on_host._replace(trajectory=there))
        calls[f"{loop} {precision} from_host"] = functools.partial(_learn, learner, on_host)
        calls[f"{loop} {precision} prefetched"] = functools.partial(_learn_next, learner, feeder)
    for call in calls.values():
        call()
    rows = rates(calls, _SECONDS.value, _REPEATS.value)
    for feeder in feeders:
        feeder.stop_drawing()
        feeder.discard(time.monotonic() + _CLOSE_SECONDS, lambda: None)
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


def _learn_next(learner: Learner, feeder: Feeder) -> int:
    sample = feeder.next(_CLOSE_SECONDS)
    assert sample is not None
    return _learn(learner, sample)


def _sample(experiment: Experiment, specs: Specs) -> Sample:
    """Random batches of one call in the host's memory, as the replay gives them."""
    layout, learner, random = FrameLayout.of(experiment, specs), experiment.learner, np.random.default_rng(0)
    shape = (experiment.items_per_call, *item_shape(experiment, layout)[:2])
    frames = layout.empty(int(np.prod(shape))).reshape(shape)
    for name, spec in specs.leaves().items():
        of_leaf = (*shape, *spec.shape)
        values = random.normal(size=of_leaf) if spec.dtype == "float32" else random.integers(0, 2, of_leaf)
        frames[layout.leaf_field(name)] = values
    frames["action"] = random.integers(0, specs.num_actions, shape)
    frames["reward"] = random.normal(size=shape)
    frames["step_type"] = frames["next_step_type"] = MID
    count = shape[0]
    with tf.device("CPU:0"):
        of_bytes = tf.constant(frames.view(np.uint8).reshape(*shape, layout.num_bytes))
        keys = tf.zeros((count,), tf.uint64)
        return arrange(experiment, layout, learner.batch_size, of_bytes, tf.ones((count,)), keys)


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
