"""Ours at the same works, as its commands run it: collector, learner and evaluator in processes of their own.

As the peers do plain DQN, so do we here, except in "solve", which is `configs/cartpole.toml` as shipped. Its evaluation
runs beside training, on the clock and on the same cores, where the peers' is off the clock.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pipeline
from benchmarks.peers import works
from benchmarks.peers.works import Request
from pipeline.experiment.sections import LearnerConfig
from pipeline.records.results import Summary

PLAIN = (
    "agent.double=false",
    "agent.n_step=1",
    "agent.hidden_units=[128, 64]",
    "agent.normalize_observations=false",
    "agent.learning_rate_decay_steps=0",
)
UNENDING = ("evaluation.every_steps=100_000_000", "stop.target_return=1e9", "stop.environment_steps=0")
REPLAYS = (10_000, 100_000, 1_000_000)
COLLECTORS = (1, 2, 4)


def _train(config: str, lines: tuple[str, ...], seed: int) -> Summary:
    with tempfile.TemporaryDirectory(prefix="reverb-dqn-") as folder:
        return pipeline.train(pipeline.load(config, lines, seed), Path(folder) / "run")


def solve(request: Request) -> dict[str, Any]:
    """Trains until the evaluator's greedy mean over 20 episodes reaches 475."""
    before = time.time() - request.started
    summary = _train("cartpole", (f"stop.seconds={request.seconds}", "stop.environment_steps=0"), request.seed)
    return {
        "solved": summary.solved,
        "train_seconds": round(summary.train_seconds, 3),
        "startup_seconds": round(before + summary.startup_seconds, 3),
        "environment_steps": summary.environment_steps,
        "mean_return": summary.mean_return,
    }


def fixed(request: Request, more: tuple[str, ...] = ()) -> dict[str, Any]:
    """One gradient step per environment step: 64 samples per insert at batch 64.

    The clock starts, as the peers' does, after the warm-up: here with the end of the first call of gradient steps.

    Args:
      request: how many steps, and the seed.
      more: lines of TOML over those of the work.
    """
    ratio = ("learner.batch_size=64", "replay.samples_per_insert=64", f"replay.min_size={works.WARM_UP}")
    first = LearnerConfig().steps_per_call
    stop = (f"stop.gradient_steps={request.steps + first}", f"stop.seconds={request.seconds}")
    summary = _train("cartpole", (*PLAIN, *UNENDING, *ratio, *stop, *more), request.seed)
    steps = summary.gradient_steps - first
    return {"steps_per_second": steps / (summary.train_seconds - summary.filling_seconds), "steps": steps}


def learner(request: Request) -> dict[str, Any]:
    """Gradient steps/s drawing from a live Reverb table, in the loop that the learner chooses.

    A call takes 400 gradient steps: nobody waits for its weights here, and the call itself costs 0.3 ms.
    """
    from benchmarks import live_replay
    from pipeline import environments
    from pipeline.learner.learner import Learner

    rates: dict[str, Any] = {}
    for batch_size in request.batch_sizes:
        experiment = pipeline.load(
            "cartpole", (*PLAIN, "learner.steps_per_call=400", f"learner.batch_size={batch_size}")
        )
        specs = environments.describe(experiment.environment)
        server = live_replay.serve(experiment, specs)
        live_replay.fill(experiment, specs, server.address, works.FILLED)
        samples = iter(server.dataset())
        trainer = Learner(experiment, specs)
        trainer.choose_loop()

        def call(trainer: Learner = trainer, samples: Any = samples) -> int:
            before = trainer.gradient_steps
            trainer.learn(next(samples))
            return trainer.gradient_steps - before

        rates[str(batch_size)] = works.rate(call, request.seconds)
        rates[f"loop_{batch_size}"] = trainer.loop
        server.stop()
    return rates


def collect(request: Request) -> dict[str, Any]:
    """Environment steps/s of one collector process into a live Reverb server in another process."""
    lanes = ",".join(str(count) for count in request.lanes)
    command = [sys.executable, "-m", "benchmarks.parts.collector", f"--lanes={lanes}", f"--seconds={request.seconds}"]
    output = subprocess.run(
        [*command, "--repeats=1", "--nopin"], check=True, capture_output=True, text=True, timeout=600
    ).stdout
    measured = json.loads(output.splitlines()[-1])["environment_steps_per_second"]
    return {count: both["collected"] for count, both in measured.items()}


def replay(request: Request) -> dict[str, Any]:
    """Transitions/s inserted and drawn in batches of 64 by the number of transitions held, 16 lanes to an item."""
    from benchmarks import live_replay
    from pipeline import environments

    insert, sample = {}, {}
    for size in REPLAYS:
        experiment = pipeline.load("cartpole", (*PLAIN, f"replay.capacity={size}", "collect.lanes=16"))
        specs = environments.describe(experiment.environment)
        server = live_replay.serve(experiment, specs)
        live_replay.fill(experiment, specs, server.address, size)
        write, draw = live_replay.writing(experiment, specs, server.address), live_replay.drawing(server)
        insert[str(size)] = works.rate(write, request.seconds)
        sample[str(size)] = works.rate(draw, request.seconds)
        server.stop()
    return {"insert": insert, "sample": sample}


def growth(request: Request) -> dict[str, Any]:
    """Environment and gradient steps/s of whole runs with 1, 2 and 4 collectors of 16 lanes, 4 samples per insert."""
    rates: dict[str, Any] = {}
    for collectors in COLLECTORS:
        lines = (f"collect.collectors={collectors}", "replay.samples_per_insert=4", f"stop.seconds={request.seconds}")
        summary = _train("cartpole", (*PLAIN, *UNENDING, *lines), request.seed)
        rates[str(collectors)] = {
            "environment": summary.environment_steps_per_second,
            "gradient": summary.gradient_steps_per_second,
        }
    return rates


WORKS: dict[str, Callable[[Request], dict[str, Any]]] = {
    "solve": solve,
    "fixed": fixed,
    "learner": learner,
    "collect": collect,
    "replay": replay,
    "growth": growth,
}

if __name__ == "__main__":
    packages = ("reverb-dqn", "tensorflow", "tf-agents", "dm-reverb", "gymnasium")
    works.main(WORKS, {name: metadata.version(name) for name in packages})
