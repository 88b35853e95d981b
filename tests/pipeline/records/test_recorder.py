"""Records that outlive their processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from waiting import SECONDS

from pipeline.messages.contents import Counts
from pipeline.records.recorder import Recorder

WRITER = """
import sys
from pathlib import Path
from pipeline.messages.contents import Counts
from pipeline.records.recorder import Recorder
recorder = Recorder(Path(sys.argv[1]))
count = 0
while True:
    count += 1
    recorder.record(Counts(*[count] * len(Counts.__struct_fields__)))
"""


def test_a_killed_process_leaves_its_newest_counts_whole(tmp_path: Path) -> None:
    for attempt in range(5):
        path = tmp_path / f"record-{attempt}"
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)])
        try:
            deadline = time.monotonic() + SECONDS
            while not path.exists() or Recorder(path).counts.items < 1_000:
                assert time.monotonic() < deadline, "the process recorded nothing"
                time.sleep(0.005)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        recorder = Recorder(path)
        assert len({*(getattr(recorder.counts, name) for name in Counts.__struct_fields__)}) == 1
        assert recorder.beats - recorder.counts.items in (-1, 0)


def test_a_record_is_empty_until_it_is_written(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "record")
    assert (recorder.counts, recorder.beats, recorder.return_code) == (Counts(), 0, None)


@pytest.mark.parametrize("code", [0, 1, 3, -9, -15])
def test_how_a_process_ended_is_told_from_that_it_lives(tmp_path: Path, code: int) -> None:
    Recorder(tmp_path / "record").mark_ended(code)
    assert Recorder(tmp_path / "record").return_code == code


def test_a_record_without_a_file_is_the_process_own() -> None:
    mine, other = Recorder(None), Recorder(None)
    mine.record(Counts(environment_steps=5))
    assert (mine.counts.environment_steps, other.counts.environment_steps) == (5, 0)


def test_a_disk_that_fills_up_does_not_break_a_record(tmp_path: Path) -> None:
    """Its file has its blocks from the start: a mapped page without one would end the process by SIGBUS."""
    Recorder(tmp_path / "record")
    status = os.stat(tmp_path / "record")
    assert status.st_blocks * 512 >= status.st_size > 0


def test_what_a_machine_lost_is_not_subtracted() -> None:
    assert Counts(5, 3) - Counts(7, 1) == Counts(0, 2)
    assert Counts(5, 3) + Counts(7, 1) == Counts(12, 4)
