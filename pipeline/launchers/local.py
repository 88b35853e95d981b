"""All roles on this machine, each a fresh Python process. The supervisor itself imports no TensorFlow."""

import os
import signal
import subprocess
import sys
import time
from types import FrameType

from pipeline.console import Console
from pipeline.launchers import Launch
from pipeline.ports import free_port

_STOP_SECONDS = 90.0
"""How long a stopping run may take for its last checkpoint before its processes are killed."""
_LEAVE_SECONDS = 5.0
_POLL_SECONDS = 0.05
_LAST_LINES = 12


class Supervisor:
    """Starts the roles of a run, watches them, and ends them all."""

    def __init__(self, launch: Launch) -> None:
        self._launch = launch
        self._port = launch.experiment.replay.port or free_port()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._signals = 0

    def run(self) -> int:
        """Runs to the end and returns the exit code."""
        # Called from Python, the handlers are the caller's again when the run has ended.
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self._on_signal) for number in numbers}
        try:
            return self._run()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _run(self) -> int:
        launch = self._launch
        with Console(launch.run, launch.experiment) as console:
            try:
                self._start_all()
                code, reason = self._watch(console)
            finally:
                self._end_all()
        console.say_end(code, reason)
        return code

    def _start_all(self) -> None:
        self._start("learner")
        for index in range(self._launch.experiment.collectors):
            self._start("collector", index)
        self._start("evaluator")

    def _start(self, role: str, index: int = 0) -> None:
        launch = self._launch
        name = f"{role}-{index}" if role == "collector" else role
        command = [sys.executable, "-m", "pipeline.role", f"--role={role}", f"--index={index}"]
        command += [f"--run_dir={launch.run.path}", f"--port={self._port}", f"--started={launch.started}"]
        if launch.resume:
            command.append("--resume")
        with (launch.run.logs / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(role),
                # A terminal sends Ctrl-C to its whole foreground group: the roles are stopped by their supervisor only.
                start_new_session=True,
            )

    def _watch(self, console: Console) -> tuple[int, str]:
        """Shows progress until the learner has ended or another role has failed: exit code and reason in words."""
        stop_deadline: float | None = None
        launch, learner = self._launch, self._processes["learner"]
        while True:
            console.refresh()
            if (code := learner.poll()) is not None:
                # Where the learner ended in good order, its summary says why.
                in_order = code in (0, 3, 4) or (code == 1 and launch.run.summary.is_file())
                return (code if code in (0, 2, 3, 4) else 1), "" if in_order else self._last_words("learner", code)
            if self._signals > 1:
                return 1, "interrupted twice: ended without a checkpoint"
            if self._signals and stop_deadline is None:
                learner.terminate()
                stop_deadline = time.monotonic() + _STOP_SECONDS
            if stop_deadline is not None and time.monotonic() > stop_deadline:
                return 1, f"the learner did not end within {_STOP_SECONDS:.0f} s"
            failed = [name for name, process in self._processes.items() if process.poll() not in (None, 0)]
            if failed and stop_deadline is None:
                console.note(self._last_words(failed[0], self._processes[failed[0]].returncode))
                learner.terminate()  # it saves what has been learned, unless the failed role has told it to already
                stop_deadline = time.monotonic() + _STOP_SECONDS
            time.sleep(_POLL_SECONDS)

    def _end_all(self) -> None:
        deadline = time.monotonic() + (_LEAVE_SECONDS if self._signals < 2 else 0.0)
        for process in self._processes.values():
            if process.poll() is None:
                process.terminate()
        for process in self._processes.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _last_words(self, name: str, code: int) -> str:
        path = self._launch.run.logs / f"{name}.log"
        lines = path.read_text(errors="replace").splitlines()
        errors = [line.partition(" ERROR ")[2].partition(": ")[2] for line in lines if " ERROR " in line]
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        if errors and "Traceback" not in "\n".join(lines[-_LAST_LINES * 4 :]):
            return f"{name} ended with {how}: {errors[-1]}"
        return f"{name} ended with {how}; the end of {path}:\n" + "\n".join(lines[-_LAST_LINES:])

    def _on_signal(self, _: int, __: FrameType | None) -> None:
        self._signals += 1


def run(launch: Launch) -> int:
    """Runs all roles on this machine; returns the exit code."""
    return Supervisor(launch).run()


def _environment(role: str) -> dict[str, str]:
    """Environment variables of a role: each library's thread pool bounded, so that roles do not fight for cores."""
    environment = dict(os.environ)
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    environment.setdefault("GRPC_VERBOSITY", "ERROR")
    if role != "learner":
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
            environment.setdefault(name, "1")
        environment["CUDA_VISIBLE_DEVICES"] = ""
    return environment
