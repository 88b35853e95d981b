"""What all tests share: import paths, quiet libraries, and Python in a process of its own."""

import atexit
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from _pytest.nodeid import NodeId
from hypothesis import settings

# Under `nohup`, and in the background of a script, every process of a test would ignore these signals, too.
for number, handler in ((signal.SIGHUP, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
SUPPORT = TESTS / "support"
"""What tests use of each other's: environments, hosts, small runs."""
TIERS = {"not slow": "make test-slow", "slow": "make test"}

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
# Tests run beside each other: of one that computes in several threads each would wait for the other tests' for a core.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
for folder in (SUPPORT, TESTS, ROOT):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

# Examples share a machine with other tests: how long one takes says nothing.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")


def leave(code: int) -> None:
    """Ends this process at once, if threads are left that may wait in C++ for a server: as the roles of a run end.

    Such a thread cannot be ended. One that comes back while Python ends itself is ended by Python, within functions of
    Reverb's that may not be left so: "terminate called without an active exception".
    """
    if any(thread.daemon for thread in threading.enumerate()):
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


NOT_RUN = pytest.StashKey[Counter[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[NOT_RUN] = Counter()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # xdist tells a group by the end of its tests' ids. It writes them where pytest 9.2 no longer reads them, and so
    # each worker would make the fixtures of every group.
    for item in items:
        if "@" in (grouped := getattr(item, "_nodeid", "")):
            item._id = NodeId.parse(grouped)  # type: ignore[attr-defined]


def pytest_deselected(items: list[pytest.Item]) -> None:
    for item in items:
        item.config.stash[NOT_RUN][str(item.path.relative_to(TESTS).parent)] += 1


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    atexit.register(leave, exitstatus)
    # Under xdist the workers deselect: each tells its controller.
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["not_run"] = dict(session.config.stash[NOT_RUN])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    if not_run := getattr(node, "workeroutput", {}).get("not_run"):
        node.config.stash[NOT_RUN] = Counter(not_run)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Says what the tier that was run leaves out."""
    not_run, tier = config.stash[NOT_RUN], config.option.markexpr
    if not_run and tier in TIERS:
        folders = ", ".join(f"{count} in {folder}" for folder, count in sorted(not_run.items()))
        terminalreporter.write_line(f"not run: {not_run.total()} tests ({folders}); `{TIERS[tier]}` runs them")


@pytest.fixture
def run_python() -> Callable[..., str]:
    """Runs code in a fresh Python process and returns what it printed; what hangs there ends with the timeout."""

    def run(code: str, *arguments: str, timeout: float = 600.0) -> str:
        # A process that waits in C++ may hold the interpreter lock: faulthandler ends it all the same, with its stacks.
        watchdog = f"import faulthandler; faulthandler.dump_traceback_later({timeout}, exit=True)\n"
        result = subprocess.run(
            [sys.executable, "-c", watchdog + textwrap.dedent(code), *arguments],
            capture_output=True,
            text=True,
            timeout=timeout + 10,
            check=False,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{SUPPORT}"},
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    return run
