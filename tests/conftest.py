"""What all tests share: import paths, quiet libraries, and Python in a process of its own."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
for folder in (TESTS, ROOT):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

# Examples share a machine with other tests: how long one takes says nothing.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")


@pytest.fixture
def run_python() -> Callable[..., str]:
    """Runs code in a fresh Python process and returns what it printed; what hangs there ends with the timeout."""

    def run(code: str, *arguments: str, timeout: float = 60.0) -> str:
        # A process that waits in C++ may hold the interpreter lock: faulthandler ends it all the same, with its stacks.
        watchdog = f"import faulthandler; faulthandler.dump_traceback_later({timeout}, exit=True)\n"
        result = subprocess.run(
            [sys.executable, "-c", watchdog + textwrap.dedent(code), *arguments],
            capture_output=True,
            text=True,
            timeout=timeout + 10,
            check=False,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{TESTS}"},
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    return run
