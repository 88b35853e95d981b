"""What a sweep says of runs that end after it was interrupted."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.experiment import config
from pipeline.sweep.combinations import Combination
from pipeline.sweep.plan import SweepRun
from pipeline.sweep.progress import Progress
from pipeline.sweep.runner import Members, Sweeper


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (1, "left      {name}\n"),
        (-signal.SIGKILL, "left      {name} by signal SIGKILL\n"),
        (4, "FAILED    {name}: exit code 4: it diverged; see {log}\n"),
    ],
)
def test_a_run_that_ends_after_the_interruption_is_named_with_how(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], code: int, words: str
) -> None:
    member = SweepRun(tmp_path, Combination({}), 0, config.parse("", ()))
    member.log.write_text("it diverged\n")
    sweeper = Sweeper(work := Members([]), 1, Progress(0, 1))
    sweeper._on_signal(signal.SIGTERM, None)
    sweeper._running[member] = subprocess.Popen([sys.executable, "-I", "-S", "-c", ""])
    sweeper._running[member].wait()
    sweeper._log_from[member] = 0
    sweeper._take_end(member, code)
    assert capsys.readouterr().out == words.format(name=member.name, log=member.log)
    assert [failed.member for failed in work.failed] == ([member] if code == 4 else [])
