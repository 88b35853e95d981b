"""What a process leaves is found and removed when it has ended, however it ended."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
from waiting import SECONDS

from pipeline.runtime import belongings

PROGRAM = """
import subprocess, sys, tempfile
from pipeline.runtime.belongings import keep_generated_code
keep_generated_code()
code = tempfile.NamedTemporaryFile(mode="w", suffix=".py", prefix="__autograph_generated_file", delete=False)
other = tempfile.NamedTemporaryFile(delete=False)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"], start_new_session=True)
print(child.pid, code.name, other.name, flush=True)
input()
"""


def test_a_killed_process_leaves_nothing_of_ours_and_all_of_the_users() -> None:
    folder = belongings.folder_for("learner")
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, belongings.VARIABLE: folder},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    child, code, other = process.stdout.readline().split()
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()
    assert (Path(code).parent, Path(other).parent == Path(folder)) == (Path(folder), False)
    assert psutil.pid_exists(int(child))
    belongings.remove(folder)
    assert not Path(folder).exists()
    assert Path(other).exists(), "it may be another process's"
    Path(other).unlink()
    deadline = time.monotonic() + SECONDS
    while psutil.pid_exists(int(child)) and psutil.Process(int(child)).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "waited in vain for the end of the process that it had started"
        time.sleep(0.01)
