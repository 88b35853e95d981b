"""Notices of TensorFlow and TFLite are kept off stderr, and nothing else is."""

import os

import pytest

from pipeline.runtime.notices import without_notices

NOTICES = """INFO: Created TensorFlow Lite XNNPACK delegate for CPU.
2026-11-29 18:33:03.868782: E external/local_xla/xla/cuda_dnn.cc:9261] Unable to register cuDNN factory
Summary on the non-converted ops:
---------------------------------
 * Accepted dialects: tfl, builtin, func
- arith.constant:    1 occurrences  (i32: 1)
  (f32: 3)

"""
ERRORS = """ERROR: Node number 3 (CONV_2D) failed to prepare.
2026-11-29 18:33:03.868782: E tensorflow/core/framework/op.cc:12] something is wrong
WARNING: of the user's own
no line break at the end"""


def test_notices_go_and_errors_stay(capfd: pytest.CaptureFixture[str]) -> None:
    with without_notices():
        os.write(2, (NOTICES + ERRORS).encode())
    assert capfd.readouterr().err == ERRORS


def test_errors_stay_where_the_block_raises(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with without_notices():
            os.write(2, ERRORS.encode())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert capfd.readouterr().err == ERRORS


def test_a_closed_stderr_is_no_obstacle() -> None:
    kept = os.dup(2)
    os.close(2)
    try:
        with without_notices():
            pass
    finally:
        os.dup2(kept, 2)
        os.close(kept)
