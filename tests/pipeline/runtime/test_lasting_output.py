"""Output whose reader goes, whose disk is full, whose terminal is held."""

import io
import os
import sys
from pathlib import Path

import pytest

from pipeline.runtime.lasting_output import LastingOutput


def pipe() -> tuple[int, LastingOutput]:
    reader, writer = os.pipe()
    return reader, LastingOutput(os.fdopen(writer, "w"))


def test_a_reader_that_has_gone_is_no_error() -> None:
    reader, output = pipe()
    output.write("one\n")
    assert os.read(reader, 100) == b"one\n"
    os.close(reader)
    for _ in range(3):
        output.write("two\n")
    output._stream.close()  # type: ignore[union-attr]  # nothing is left to be written
    output.write("three\n")


def test_a_reader_that_does_not_read_is_not_waited_for() -> None:
    reader, output = pipe()
    os.set_blocking(reader, False)
    for _ in range(200):
        output.write("x" * 2_000)
    assert 4_096 <= len(os.read(reader, 10**6)) < 400_000
    output.write("later\n")
    assert os.read(reader, 100) == b"later\n", "what is read again is written to again"
    os.close(reader)
    output._stream.close()  # type: ignore[union-attr]


def test_a_full_disk_is_no_error_and_takes_what_comes_when_there_is_room(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        output = LastingOutput(full)
        output.write("lost\n")
        room = os.open(tmp_path / "room", os.O_WRONLY | os.O_CREAT)
        os.dup2(room, full.fileno())
        output.write("kept\n")
    assert (tmp_path / "room").read_text() == "kept\n"
    os.close(room)


@pytest.mark.parametrize("stream", [None, io.StringIO()])
def test_what_is_no_file_is_written_to_if_it_is_there(stream: io.StringIO | None) -> None:
    output = LastingOutput(stream)
    output.write("words")
    output.flush()
    assert not output.isatty()
    assert stream is None or stream.getvalue() == "words"


def test_belongs_to_what_is_printed_to_now(capsys: pytest.CaptureFixture[str]) -> None:
    LastingOutput(sys.stdout).write("hello")
    assert capsys.readouterr().out == "hello"
