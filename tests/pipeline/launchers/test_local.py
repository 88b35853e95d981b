"""How a run on this machine says that it ends."""

import subprocess
import sys
from pathlib import Path

from pipeline.experiment.config import parse
from pipeline.experiment.run_directory import RunDirectory
from pipeline.launchers import Launch
from pipeline.launchers.local import Supervisor
from pipeline.monitoring.console import Console
from pipeline.records.recorder import Recorder
from pipeline.security.privacy import Privacy


def test_a_learner_that_does_not_end_in_time_does_not_hide_why_the_run_was_given_up(tmp_path: Path) -> None:
    run, experiment = RunDirectory(tmp_path / "run"), parse("", ())
    run.create(experiment)
    supervisor = Supervisor(Launch(experiment, run, 0.0, False, Privacy("open")))
    learner = supervisor._learner
    learner.process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", "import signal; signal.signal(15, signal.SIG_IGN); print(); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert learner.process.stdout is not None
    learner.process.stdout.readline()  # from here on it ignores what it is told
    learner.follow(Recorder(None))
    supervisor._others = []
    try:
        supervisor._give_up(2, "collector-0 cannot be")
        assert supervisor._stop_deadline is not None
        supervisor._stop_deadline = 0.0
        with Console(run, experiment) as console:
            code, reason = supervisor._watch(console)
    finally:
        learner.kill()
    assert code == 2
    assert reason.startswith("collector-0 cannot be\nthe learner did not end within")
