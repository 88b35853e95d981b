"""Entry point of one role's process; launchers start it."""

import contextlib
import gc
import logging
import os
import sys
import threading
import time
from pathlib import Path

from absl import app, flags

from pipeline import environments
from pipeline.config import UsageError
from pipeline.ledger import ENVIRONMENT_FAULT
from pipeline.ports import HOST
from pipeline.process import die_with_parent, interruption, quieten_gym
from pipeline.recorder import Recorder
from pipeline.run_directory import RunDirectory
from pipeline.sections import Experiment

ROLE = flags.DEFINE_enum("role", None, ["learner", "collector", "evaluator"], "What this process does.")
RUN_DIR = flags.DEFINE_string("run_dir", None, "Run directory with the resolved config.toml.")
PORT = flags.DEFINE_integer("port", None, "Port of the replay server, which is part of the learner's process.")
INDEX = flags.DEFINE_integer("index", 0, "Which of the collectors this is.")
INCARNATION = flags.DEFINE_integer("incarnation", 0, "How often this role was started before.")
PASS_OVER = flags.DEFINE_integer("pass_over", 0, "Newest checkpoints that --resume leaves out.")
SUPERVISOR = flags.DEFINE_integer("supervisor", 0, "Process whose end ends this one; 0 takes the parent.")
RESUME = flags.DEFINE_bool("resume", False, "Go on from the newest checkpoint.")
STARTED = flags.DEFINE_float("started", 0.0, "Wall-clock time at which the user's command started.")

log = logging.getLogger("role")


def learn(experiment: Experiment, run: RunDirectory, interrupted: threading.Event) -> int:
    """The learner's process, replay included; returns the exit code."""
    gc.disable()  # what is imported and traced stays: looking for garbage in it is a tenth of start-up
    quieten_gym()
    from pipeline.learning import LearningProcess
    from pipeline.ledger import EXIT_CODES, UNWRITTEN_SUMMARY, UnwrittenSummary
    from pipeline.training import run_to_its_end

    specs = environments.describe(experiment.environment)
    process = LearningProcess(
        experiment,
        specs,
        run,
        PORT.value,
        started=STARTED.value,
        resume=RESUME.value,
        life=INCARNATION.value,
        pass_over=PASS_OVER.value,
        recorder=_recorder(run),
    )
    gc.freeze()
    gc.enable()
    try:
        return EXIT_CODES[run_to_its_end(process, interrupted).stop_reason]
    except UnwrittenSummary as error:
        log.error("%s", error)
        return UNWRITTEN_SUMMARY


def collect(experiment: Experiment, run: RunDirectory, interrupted: threading.Event) -> int:
    """A collector's process; returns the exit code."""
    from pipeline.collecting import run_collector

    process, address = f"{_name()}.{INCARNATION.value}", f"{HOST}:{PORT.value}"
    return run_collector(
        experiment,
        INDEX.value,
        address,
        process,
        interrupted,
        _recorder(run),
        INCARNATION.value,
        _weights_address(experiment),
    )


def evaluate(experiment: Experiment, run: RunDirectory, interrupted: threading.Event) -> int:
    """The evaluator's process; returns the exit code."""
    from pipeline.collecting import run_evaluator

    address, weights_address = f"{HOST}:{PORT.value}", _weights_address(experiment)
    return run_evaluator(experiment, run.policies, address, interrupted, _recorder(run), weights_address)


def _weights_address(experiment: Experiment) -> str:
    return f"{HOST}:{experiment.replay.weights_port or PORT.value}"


def _name() -> str:
    return f"collector-{INDEX.value}" if ROLE.value == "collector" else str(ROLE.value)


def _recorder(run: RunDirectory) -> Recorder:
    return Recorder(run.recorder(_name(), INCARNATION.value))


def main(_: list[str]) -> None:
    """Runs the role and leaves without waiting for Reverb's threads, which may wait for ever."""
    die_with_parent(SUPERVISOR.value)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)
    interrupted = interruption()
    run = RunDirectory(Path(RUN_DIR.value))
    started = time.monotonic()
    code = 1
    try:
        experiment = run.experiment()
        if ROLE.value == "learner":
            code = learn(experiment, run, interrupted)
        elif ROLE.value == "collector":
            code = collect(experiment, run, interrupted)
        else:
            code = evaluate(experiment, run, interrupted)
    except (UsageError, TimeoutError, environments.EnvironmentFault) as error:
        codes = {UsageError: 2, TimeoutError: 3}
        code = codes.get(type(error), ENVIRONMENT_FAULT)
        log.error("%s", error)
    except Exception:
        log.exception("the %s ends", ROLE.value)
    log.info("ends with exit code %d after %.1f s", code, time.monotonic() - started)
    logging.shutdown()
    with contextlib.suppress(OSError):  # the disk that the log is on is full
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    flags.mark_flags_as_required(["role", "run_dir", "port"])
    app.run(main)
