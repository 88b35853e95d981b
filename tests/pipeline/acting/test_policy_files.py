"""Policies on disk: a damaged one is a line, and never reaches TFLite, which would end the process."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.acting import policy_files
from pipeline.acting.policy_files import Policy
from pipeline.experiment.config import UsageError
from pipeline.messages.contents import Array

PROGRAM = b"\x10\0\0\0TFL3" + bytes(40)
POLICY = Policy(PROGRAM, (Array.of(np.arange(6, dtype=np.float32).reshape(2, 3)),), 1_000, 100, 12.5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("policy")


def refusal(folder: Path, content: bytes) -> str:
    (folder / "policy.msgpack").write_bytes(content)
    with pytest.raises(UsageError) as caught:
        policy_files.load(folder)
    assert "\n" not in str(caught.value)
    assert str(folder / "policy.msgpack") in str(caught.value)
    return str(caught.value)


@settings(max_examples=60)
@given(st.data())
def test_any_damage_is_found_before_the_program_is_parsed(folder: Path, data: Any) -> None:
    policy_files.save(POLICY, folder)
    assert policy_files.load(folder) == POLICY
    whole = (folder / "policy.msgpack").read_bytes()
    begin = data.draw(st.integers(0, len(whole) - 1))
    end = data.draw(st.integers(begin, min(len(whole), begin + 8)))
    damaged = whole[:begin] + data.draw(st.binary(max_size=8)) + whole[end:]
    if damaged != whole:
        refusal(folder, damaged)


@given(st.binary(max_size=64))
def test_random_bytes_are_no_policy(folder: Path, content: bytes) -> None:
    refusal(folder, content)


def test_a_file_of_an_older_version_has_no_checksum_and_is_read(folder: Path) -> None:
    (folder / "policy.msgpack").write_bytes(msgspec.msgpack.encode(POLICY))
    assert policy_files.load(folder) == POLICY


@pytest.mark.parametrize("program", [b"x", b"random bytes" * 20, b"\xff\xff\xff\xffTFL3" + bytes(40), b"\0\0\0\0TFL3"])
def test_of_an_older_file_what_is_no_program_is_found(folder: Path, program: bytes) -> None:
    older = msgspec.msgpack.encode(msgspec.structs.replace(POLICY, program=program))
    assert "no TFLite program" in refusal(folder, older)


def test_of_an_older_file_weights_that_are_cut_are_found(folder: Path) -> None:
    weight = msgspec.structs.replace(POLICY.weights[0], data=b"1234")
    refusal(folder, msgspec.msgpack.encode(msgspec.structs.replace(POLICY, weights=(weight,))))


def test_a_folder_in_the_place_of_the_file_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "policy.msgpack").mkdir()
    with pytest.raises(UsageError, match="cannot be read"):
        policy_files.load(tmp_path)
