r"""Gradient steps per second drawing from a filled Reverb table: compiled and plain loop, and one call a step.

Example:
  python -m benchmarks.parts.learner --batch_size=64

`per_call` is `tf.function(agent.train)` called once a gradient step on the same samples; `tf_agents_per_call` is the
same for TF-Agents' own DdqnAgent with Keras' Adam. `gradient_steps_per_second` is the loop that the learner chooses.
`bytes_per_gradient_step` is what tf.data hands over for one. Pong's, with random frames and no game:

  python -m benchmarks.parts.learner --config=pong --batch_size=32 --loops=plain \
    --set=replay.capacity=2000 --set=replay.min_size=512
`products_per_gradient_step` says how many products of a 64 x 128 by a 128 x 128 matrix take the time of its gradient
step: with --clock=cpu a figure that depends little on the machine and on what else runs.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from absl import flags

from agents import DqnConfig, Specs, build
from agents.dqn import QNetwork
from agents.td_agent import target_update_period
from benchmarks import live_replay
from benchmarks.live_replay import SPECS
from benchmarks.measure import median, print_result, rates, spread
from pipeline import Experiment, environments, load
from pipeline.command import run_command
from pipeline.experiment.config import UsageError
from pipeline.learner.learner import Learner
from pipeline.replay.frames import FrameLayout
from pipeline.runtime.process import quieten_gym

_CONFIG = flags.DEFINE_enum("config", "cartpole", ["cartpole", *SPECS], "Whose learner is measured.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Transitions of a gradient step.", lower_bound=1)
_SECONDS = flags.DEFINE_float("seconds", 2.0, "Of one measurement.", lower_bound=0.01)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Measurements of each.", lower_bound=1)
_LOOPS = flags.DEFINE_list("loops", ["compiled", "plain", "per_call", "tf_agents_per_call"], "Which are measured.")
_CLOCK = flags.DEFINE_enum("clock", "wall", ["wall", "cpu"], "Seconds that pass, or CPU time of all of its threads.")
_SET = flags.DEFINE_multi_string("set", [], "A line of TOML that overrides the config.")


def main(_: list[str]) -> int:
    """Measures the forms in turn."""
    quieten_gym()
    plain = ("agent.n_step=1", "agent.normalize_observations=false", "agent.learning_rate_decay_steps=0")
    fixed = (f"learner.batch_size={_BATCH_SIZE.value}", *(plain if _CONFIG.value == "cartpole" else ()), *_SET.value)
    experiment = load(_CONFIG.value, fixed)
    specs = SPECS.get(_CONFIG.value) or environments.describe(experiment.environment)
    server = live_replay.serve(experiment, specs)
    live_replay.fill(experiment, specs, server.address, experiment.replay.capacity)
    samples = iter(server.dataset())
    calls: dict[str, Callable[[], int]] = {}
    learner = Learner(experiment, specs)
    learner.choose_loop()
    steps, seen = experiment.learner.steps_per_call, FrameLayout.of(experiment, specs).agent_specs
    size = sum(leaf.numpy().nbytes for leaf in tf.nest.flatten(tuple(next(samples)))) // steps
    for loop in _LOOPS.value:
        if loop in ("compiled", "plain"):
            one = Learner(load(_CONFIG.value, (*fixed, f'learner.loop="{loop}"')), specs)
            one.choose_loop()
            calls[loop] = _fused(one, samples, steps)
        elif loop == "per_call":
            calls[loop] = _per_call(build(experiment.agent.kind, seen, experiment.agent), samples, steps, learner)
        elif loop == "tf_agents_per_call":
            calls[loop] = _per_call(_stock_agent(experiment, seen), samples, steps, learner)
        else:
            raise UsageError(f"--loops: there is no {loop!r}")
    if learner.loop not in calls:
        raise UsageError(f"--loops lacks {learner.loop}, which the learner chooses")
    calls["products"] = _products()
    for call in calls.values():
        call()
    clock = time.process_time if _CLOCK.value == "cpu" else time.perf_counter
    results = rates(calls, _SECONDS.value, _REPEATS.value, clock)
    seconds = "s of CPU" if _CLOCK.value == "cpu" else "s"
    for name, values in results.items():
        print(f"{name:20s} {spread(values)} {'products' if name == 'products' else 'gradient steps'}/{seconds}")
    medians = {name: median(values) for name, values in results.items()}
    chosen = medians[learner.loop]
    others = (name for name in ("per_call", "tf_agents_per_call") if name in medians)
    print_result(
        {
            "batch_size": _BATCH_SIZE.value,
            "clock": _CLOCK.value,
            "gradient_steps_per_second": chosen,
            "chosen": learner.loop,
            "bytes_per_gradient_step": size,
            **medians,
            **{f"ratio_to_{name}": round(chosen / medians[name], 2) for name in others},
            "products_per_gradient_step": round(medians["products"] / chosen, 2),
        }
    )
    return 0


def _fused(learner: Learner, samples: Any, steps: int) -> Callable[[], int]:
    def call() -> int:
        learner.learn(next(samples))
        return steps

    return call


def _per_call(agent: Any, samples: Any, steps: int, learner: Learner) -> Callable[[], int]:
    train = tf.function(agent.train)

    def call() -> int:
        trajectory = learner.trajectory(next(samples))
        for k in range(steps):
            train(tf.nest.map_structure(lambda leaf, k=k: leaf[k], trajectory))
        return steps

    return call


def _products() -> Callable[[], int]:
    """Products of matrices in one compiled loop: a measure of what this machine does at present."""
    count = 1_000
    left = tf.random.stateless_normal((64, 128), (0, 1))
    right = tf.random.stateless_normal((128, 128), (0, 2)) / 16.0  # keeps the numbers' size

    def loop() -> tf.Tensor:
        return tf.while_loop(lambda _, k: k < count, lambda x, k: (x @ right, k + 1), (left, 0))[0]

    compiled = tf.function(loop, jit_compile=True)

    def call() -> int:
        compiled()
        return count

    return call


def _stock_agent(experiment: Experiment, specs: Specs) -> Any:
    from tf_agents.agents.dqn import dqn_agent
    from tf_agents.utils import common

    from agents import tf_specs

    config = experiment.agent
    assert isinstance(config, DqnConfig)
    agent = dqn_agent.DdqnAgent(
        tf_specs.time_step(specs),
        tf_specs.action(specs),
        q_network=QNetwork(specs, config, seed=0),
        optimizer=tf.keras.optimizers.Adam(config.learning_rate),
        td_errors_loss_fn=common.element_wise_huber_loss,
        gamma=config.discount,
        target_update_period=target_update_period(config),
        gradient_clipping=config.gradient_clip_norm,
    )
    agent.initialize()
    return agent


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
