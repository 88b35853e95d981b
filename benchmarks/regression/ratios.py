"""The five ratios. Both sides of each are measured in turn, so that a slow hour slows both."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

_SECONDS = 600.0
_IMPORTS = "import tensorflow, tf_agents.agents, reverb"
_MIB = 2.0**20


class Effort(NamedTuple):
    """How long it is measured: a test of the command needs no steady figures."""

    seconds: float
    """Of one measurement of a rate."""
    repeats: int
    """Measurements of each side of a ratio."""
    environment_steps: int
    """Of the run whose memory is looked at."""


class Ratio(NamedTuple):
    """One of the five.

    Attributes:
      meaning: of the figure, for people.
      larger_is_better: whether a fall is a loss; else a rise is.
      measure: measures it anew.
    """

    meaning: str
    larger_is_better: bool
    measure: Callable[[Effort], float]


def _compiled_to_tf_agents(effort: Effort) -> float:
    result = _result("benchmarks.parts.learner", f"--seconds={effort.seconds}", f"--repeats={effort.repeats}")
    return float(result["ratio_to_tf_agents_per_call"])


def _cpu_of_a_gradient_step(effort: Effort) -> float:
    flags = f"--seconds={effort.seconds}", f"--repeats={effort.repeats}", "--loops=compiled", "--clock=cpu"
    return float(_result("benchmarks.parts.learner", *flags)["products_per_gradient_step"])


def _collector_to_bare(effort: Effort) -> float:
    flags = f"--seconds={effort.seconds}", f"--repeats={effort.repeats}", "--lanes=16"
    rates = _result("benchmarks.parts.collector", *flags)["environment_steps_per_second"]["16"]
    return float(rates["collected"] / rates["bare"])


def _memory_to_imports(effort: Effort) -> float:
    run = _result("benchmarks.parts.memory", f"--environment_steps={effort.environment_steps}")
    return float(run["resident_mib_at_the_end"]) / _memory_of_imports()


def _start_up_to_imports(effort: Effort) -> float:
    quotients = []
    for _ in range(effort.repeats):
        started = time.perf_counter()
        _python("-c", _IMPORTS)
        quotients.append(_start_up() / (time.perf_counter() - started))
    return statistics.median(quotients)


RATIOS: Mapping[str, Ratio] = {
    "compiled_to_tf_agents": Ratio(
        "gradient steps/s from Reverb, the learner's loop to TF-Agents' agent called once a step, batch 64",
        True,
        _compiled_to_tf_agents,
    ),
    "cpu_of_a_gradient_step": Ratio(
        "CPU time of a gradient step, its draw included, in products of 64 x 128 by 128 x 128",
        False,
        _cpu_of_a_gradient_step,
    ),
    "collector_to_bare": Ratio(
        "environment steps/s of 16 lanes, a collector with its network and writer to the environment alone",
        True,
        _collector_to_bare,
    ),
    "memory_to_imports": Ratio(
        "resident memory, all processes of a CartPole run to one that has imported the stack", False, _memory_to_imports
    ),
    "start_up_to_imports": Ratio(
        "seconds, until a CartPole run learns to importing the stack", False, _start_up_to_imports
    ),
}
"""By name, in the order in which they are measured. The stack is TensorFlow, TF-Agents and Reverb."""


def _start_up() -> float:
    """Seconds until a short run of CartPole learned."""
    with tempfile.TemporaryDirectory(prefix="reverb-dqn-") as folder:
        run = Path(folder) / "run"
        _python("-m", "pipeline.train", "--config=cartpole", f"--run_dir={run}", "--set=stop.gradient_steps=100")
        return float(json.loads((run / "summary.json").read_text())["startup_seconds"])


def _memory_of_imports() -> float:
    """MiB of a process that has imported the stack."""
    code = f"{_IMPORTS}; print('imported', flush=True); input()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"imported\n", "the stack cannot be imported"
        mib = psutil.Process(process.pid).memory_info().rss / _MIB
        process.communicate(b"\n", _SECONDS)
    return mib


def _result(module: str, *flags: str) -> dict[str, Any]:
    """The closing JSON line of another benchmark."""
    result: dict[str, Any] = json.loads(_python("-m", module, *flags).splitlines()[-1])
    return result


def _python(*arguments: str) -> str:
    command: Sequence[str] = [sys.executable, *arguments]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout
