"""Resident memory of a CartPole run, all processes together, at a tenth of its environment steps and at its end.

Example:
  python -m benchmarks.parts.memory --environment_steps=5_000_000
"""

import contextlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from absl import flags

from benchmarks.measure import FULL_SPEED, print_result
from pipeline.command import run_command
from pipeline.drill.faults import Drilled
from pipeline.experiment.config import UsageError
from pipeline.experiment.run_directory import RunDirectory

_STEPS = flags.DEFINE_integer("environment_steps", 5_000_000, "Of the run.", lower_bound=1000)
_MIB = 2.0**20


def _resident(process: "subprocess.Popen[bytes]") -> float:
    parent = psutil.Process(process.pid)
    return sum(one.memory_info().rss for one in (parent, *parent.children(recursive=True))) / _MIB


def main(_: list[str]) -> int:
    """Runs once and samples ten times a second."""
    samples: list[tuple[int, float]] = []
    with tempfile.TemporaryDirectory(prefix="reverb-dqn-") as folder:
        sets = [f"--set={line}" for line in (*FULL_SPEED, f"stop.environment_steps={_STEPS.value}")]
        run = Drilled(RunDirectory(Path(folder) / "run"), ["--config=cartpole", *sets], [])
        run.start()
        assert run.supervisor is not None
        while run.supervisor.poll() is None:
            time.sleep(0.1)
            status = run.status()
            if status is not None and status.phase == "learning":
                with contextlib.suppress(psutil.Error):
                    samples.append((status.environment_steps, _resident(run.supervisor)))
    early = next((size for steps, size in samples if steps >= _STEPS.value // 10), None)
    if early is None:
        raise UsageError("the run was over before it was looked at: raise --environment_steps")
    late = samples[-1][1]
    print_result(
        {
            "environment_steps": samples[-1][0],
            "resident_mib_at_a_tenth": round(early),
            "resident_mib_at_the_end": round(late),
            "largest_resident_mib": round(max(size for _, size in samples)),
            "growth_percent": round(100 * (late / early - 1), 2),
        }
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
