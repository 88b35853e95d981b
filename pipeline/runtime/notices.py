"""Keeping what TensorFlow and TFLite announce about themselves off stderr; warnings about work and errors stay."""

import contextlib
import importlib
import os
import re
from collections.abc import Iterator

_NOTICES = re.compile(
    rb"INFO: .*"  # TFLite's, of its XNNPACK delegate
    rb"|.* E external/local_xla/.*Unable to register cu(DNN|FFT|BLAS) factory.*"  # of TensorFlow's import, no error
    rb"|Summary on the non-converted ops:|-{10,}$"
    rb"| \* (Accepted dialects|Non-Converted Ops|\d+ [A-Z]+ ops).*"  # a converter's
    rb"|- [a-z_.]+: +\d+ occurrences.*| +\(\w+: \d+.*\)|\s*$",
)


@contextlib.contextmanager
def without_notices() -> Iterator[None]:
    """Takes notices out of what is written to stderr meanwhile; the rest follows at the end."""
    try:
        stderr = os.dup(2)
    except OSError:  # it is closed
        yield
        return
    said = os.memfd_create("stderr")
    os.dup2(said, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        lines = os.pread(said, os.fstat(said).st_size, 0).splitlines(keepends=True)
        with contextlib.suppress(OSError):  # nobody reads it
            os.write(2, b"".join(line for line in lines if not _NOTICES.match(line)))
        os.close(said)
        os.close(stderr)


def import_tensorflow() -> None:
    """Imports TensorFlow, whose C++ code then says what is an error alone, unless TF_CPP_MIN_LOG_LEVEL is set."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with without_notices():
        importlib.import_module("tensorflow")
