"""Resident memory of a CartPole run, all processes together, at a tenth of its environment steps and at its end.

Example:
  python -m benchmarks.memory --environment_steps=5_000_000
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import psutil
from absl import flags

from benchmarks.measure import FULL_SPEED, print_result
from pipeline.command import run_command
from pipeline.records.results import Status

_STEPS = flags.DEFINE_integer("environment_steps", 5_000_000, "Of the run.", lower_bound=1000)
_MIB = 2.0**20


def _resident(process: subprocess.Popen[bytes]) -> float:
    parent = psutil.Process(process.pid)
    return sum(one.memory_info().rss for one in (parent, *parent.children(recursive=True))) / _MIB


def main(_: list[str]) -> int:
    """Runs once and samples twice a second."""
    samples: list[tuple[int, float]] = []
    with tempfile.TemporaryDirectory(prefix="reverb-dqn-") as folder:
        run_dir = Path(folder) / "run"
        sets = [f"--set={line}" for line in (*FULL_SPEED, f"stop.environment_steps={_STEPS.value}")]
        command = [sys.executable, "-m", "pipeline.train", "--config=cartpole", f"--run_dir={run_dir}", *sets]
        process = subprocess.Popen(command)
        while process.poll() is None:
            time.sleep(0.5)
            try:
                status = msgspec.json.decode((run_dir / "status.json").read_bytes(), type=Status)
                if status.phase == "learning":
                    samples.append((status.environment_steps, _resident(process)))
            except (FileNotFoundError, psutil.Error):
                continue
    early = next(size for steps, size in samples if steps >= _STEPS.value // 10)
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
