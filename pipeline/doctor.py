"""Checks this machine and installation: Python, versions, devices, ports, disk, memory, suites; says how to mend it.

Example:
  python -m pipeline.doctor --run_dir=runs
  python -m pipeline.doctor --run_dir=runs --config=atari --set=replay.capacity=500_000

Exit codes: 0 runs are possible here, 1 something has to be mended first, 2 wrong usage.
"""

import argparse  # absl may be what is missing: nothing here is imported that does not come with Python
import importlib.metadata
import importlib.util
import os
import platform
import re
import resource
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

_ROOT = Path(__file__).resolve().parent.parent
_GIB = 2.0**30
_LEAST_MEMORY = 2.0
_LEAST_DISK = 1.0
_LEAST_FILES = 1_024
_PROGRAMS = {"haproxy": "runs over several hosts with TLS", "chromium": "pictures of TensorBoard in the tests"}
_SETUP = "run `make setup`, and use .venv/bin/python"


class Finding(NamedTuple):
    """One thing that was looked at."""

    level: str
    """"ok", "note" (works without), "warning" (works badly) or "problem" (does not work)."""
    what: str
    words: str
    remedy: str = ""


def findings(run_dir: Path) -> Iterator[Finding]:
    """Everything there is to look at, the cheapest first; TensorFlow is not imported.

    Args:
      run_dir: where runs would be written.
    """
    yield _python()
    yield from _system()
    yield from _packages()
    yield _import_name()
    yield _processors()
    yield _devices()
    yield _memory()
    yield _disk(run_dir)
    yield _open_files()
    yield from _network()
    yield from _extras()
    yield from _programs()


def _python() -> Finding:
    found = platform.python_version()
    if sys.version_info[:2] == (3, 11):
        return Finding("ok", "Python", found)
    remedy = "install Python 3.11 and run `make setup PYTHON=/path/to/python3.11`"
    return Finding("problem", "Python", f"{found}: TF-Agents and Reverb have builds for 3.11 alone", remedy)


def _system() -> Iterator[Finding]:
    system, machine = platform.system(), platform.machine()
    words = f"{system} on {machine}"
    if (system, machine) != ("Linux", "x86_64"):
        yield Finding("problem", "system", f"{words}: Reverb is built for Linux on x86-64 alone", "use such a machine")
        return
    library, version = platform.libc_ver()
    if library == "glibc" and tuple(int(part) for part in version.split(".")[:2]) < (2, 28):
        yield Finding("problem", "system", f"{words}, glibc {version}: 2.28 is needed", "use a newer distribution")
    elif "avx" not in Path("/proc/cpuinfo").read_text():
        yield Finding("problem", "system", f"{words}: its processor has no AVX, which TensorFlow needs", "use another")
    else:
        yield Finding("ok", "system", f"{words}, {library or 'libc'} {version}")


def _packages() -> Iterator[Finding]:
    try:
        required = importlib.metadata.requires("reverb-dqn") or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding("problem", "packages", "this project is not installed in this Python", _SETUP)
        return
    locked, other, missing = _locked(), [], []
    names = [re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in required if "extra ==" not in line]
    for name in names:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if locked.get(_normal(name), version) != version:
            other.append(f"{name} {version} (tested with {locked[_normal(name)]})")
    if missing:
        yield Finding("problem", "packages", f"missing: {', '.join(missing)}", _SETUP)
    if other:
        yield Finding("warning", "packages", f"of another version: {', '.join(other)}", _SETUP)
    if not missing and not other:
        yield Finding("ok", "packages", f"all {len(names)} are there" + (", as locked" if locked else ""))


def _locked() -> dict[str, str]:
    try:
        lines = (_ROOT / "requirements.lock").read_text().splitlines()
    except OSError:  # installed without the repository
        return {}
    found = (re.match(r"([\w.-]+)(?:\[.*\])?==([^\s;\\]+)", line) for line in lines)
    return {_normal(match[1]): match[2] for match in found if match}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _import_name() -> Finding:
    spec = importlib.util.find_spec("agents")
    where = Path(spec.origin).resolve().parent if spec and spec.origin else None
    if where == _ROOT / "agents":
        return Finding("ok", "import agents", "is this project's")
    words = "is not found" if where is None else f"is another package's, at {where}"
    return Finding("problem", "import agents", words, _SETUP)


def _processors() -> Finding:
    count = len(os.sched_getaffinity(0))
    words = f"{count} for this process"
    if count < 2:
        return Finding("warning", "processors", words, "learner and collector will take turns: use two or more")
    return Finding("ok", "processors", words)


def _devices() -> Finding:
    cards = list(Path("/proc/driver/nvidia/gpus").glob("*"))
    if not cards:
        return Finding("note", "GPU", "none: the learner runs on the CPU")
    try:
        importlib.metadata.version("nvidia-cudnn-cu12")
    except importlib.metadata.PackageNotFoundError:
        remedy = "pip install 'tensorflow[and-cuda]==2.15.1', unless CUDA 12.2 and cuDNN 8.9 are there already"
        return Finding("note", "GPU", f"{len(cards)} NVIDIA, and no CUDA among the packages", remedy)
    return Finding("ok", "GPU", f"{len(cards)} NVIDIA")


def _memory() -> Finding:
    from pipeline.runtime.process import GIB, available_memory

    free = available_memory() / GIB
    words = f"{free:.1f} GiB available"
    if free < _LEAST_MEMORY:
        return Finding("warning", "memory", words, f"a run of CartPole takes about {_LEAST_MEMORY:g} GiB: free some")
    return Finding("ok", "memory", words)


def _disk(run_dir: Path) -> Finding:
    folder = next(path for path in (run_dir.resolve(), *run_dir.resolve().parents) if path.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        return Finding("problem", "disk", f"{folder} cannot be written to", "choose another --run_dir")
    free = shutil.disk_usage(folder).free / _GIB
    words = f"{free:.1f} GiB free for {run_dir}"
    if free < _LEAST_DISK:
        return Finding("warning", "disk", words, "checkpoints may fail: free some, or choose another --run_dir")
    return Finding("ok", "disk", words)


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < _LEAST_FILES:
        return Finding("warning", "open files", f"{soft} allowed", f"ulimit -n {min(hard, 4 * _LEAST_FILES)}")
    return Finding("ok", "open files", f"{soft:,} allowed")


def _network() -> Iterator[Finding]:
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            socket.create_connection(("127.0.0.1", port), timeout=5.0).close()
        yield Finding("ok", "ports", "programs reach each other on 127.0.0.1")
    except OSError as error:
        remedy = "bring the loopback interface up (ip link set lo up), or allow it in the firewall"
        yield Finding("problem", "ports", f"nothing can listen on 127.0.0.1 and be reached: {error}", remedy)
    yield _privacy()
    named = [name for name in ("grpc_proxy", "http_proxy", "https_proxy") if os.environ.get(name)]
    if named and "127.0.0.1" not in os.environ.get("no_proxy", "") + os.environ.get("NO_PROXY", ""):
        words = f"{', '.join(named)} set: gRPC would ask the proxy for this machine's own servers"
        yield Finding("warning", "proxy", words, "export no_proxy=127.0.0.1,localhost")


def _privacy() -> Finding:
    from pipeline.security.network_namespace import Namespace

    try:
        Namespace().close()
    except OSError as error:
        words = f"no network namespace can be made here ({error}): other users of this machine reach a run's replay"
        return Finding("note", "privacy", words, "docs/security.md says what that means")
    return Finding("ok", "privacy", "a run's replay gets a network namespace of its own")


def _extras() -> Iterator[Finding]:
    """Suites of environments and other optional packages, by the extras that pyproject.toml has for them."""
    try:
        required = importlib.metadata.requires("reverb-dqn") or []
    except importlib.metadata.PackageNotFoundError:  # which `_packages` says
        return
    are_there: dict[str, bool] = {}
    for name, extra in re.findall(r"^([\w.-]+).*extra == .(\w+)", "\n".join(required), flags=re.MULTILINE):
        if extra != "dev":
            are_there[extra] = are_there.get(extra, True) and _is_installed(name)
    missing = [extra for extra, is_there in are_there.items() if not is_there]
    yield Finding("ok", "optional packages", ", ".join(extra for extra in are_there if extra not in missing) or "none")
    if missing:
        from pipeline.runtime.installation import how_to_install

        yield Finding("note", "optional packages", f"not there: {', '.join(missing)}", how_to_install(*missing))


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _programs() -> Iterator[Finding]:
    for program, purpose in _PROGRAMS.items():
        if shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None:
            yield Finding("note", program, f"not there; it is for {purpose}", f"install Debian's package {program}")


def _experiment(name: str, overrides: tuple[str, ...], run_dir: Path) -> Iterator[Finding]:
    """What a config says of this machine: whether it can be run here, and what it takes."""
    from pipeline.experiment.config import UsageError, load
    from pipeline.launchers import describe, sizes

    try:
        experiment = load(name, overrides)
        specs = describe(experiment)
    except UsageError as error:
        yield Finding("problem", "config", str(error))
        return
    yield Finding("ok", "sizes", sizes.described(sizes.parts(experiment, specs)))
    for warned in sizes.warnings(experiment, specs, run_dir):
        yield Finding("warning", "sizes", warned.words, warned.remedy)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (--help lists the flags)\n")


def main() -> int:
    """Prints what was found."""
    parser = _Parser(
        prog="python -m pipeline.doctor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run_dir", type=Path, default=Path("runs"), help="Where runs would be written.")
    parser.add_argument("--config", help="A config whose environment and sizes are checked, too.")
    parser.add_argument(
        "--set", action="append", default=[], help="A line of TOML that overrides the config; may be repeated."
    )
    flags = parser.parse_args()
    found = list(findings(flags.run_dir))
    worst = "problem" if any(finding.level == "problem" for finding in found) else "ok"
    if flags.config and worst == "ok":  # packages that are missing would be missed again
        found += _experiment(flags.config, tuple(flags.set), flags.run_dir)
    for finding in found:
        print(f"{finding.level:<8} {finding.what}: {finding.words}")
        if finding.remedy:
            print(f"         -> {finding.remedy}")
        if finding.level == "problem":
            worst = "problem"
    print("Something has to be mended first." if worst == "problem" else "Runs are possible here.")
    return 1 if worst == "problem" else 0


if __name__ == "__main__":
    sys.exit(main())
