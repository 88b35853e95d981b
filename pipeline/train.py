"""Trains an agent: collectors, replay, learner and evaluator in parallel.

Example:
  python -m pipeline.train --config=cartpole --run_dir=runs/cartpole --set=agent.n_step=3

Exit codes: 0 the run ended at its stop condition, 2 wrong usage or config (nothing is written), 3 stalled
or nothing learned, 4 diverged, 1 anything else, an interruption included.
"""

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from pipeline.command import refuse_more, run_command
from pipeline.experiment.config import UsageError, load
from pipeline.experiment.run_directory import RunDirectory
from pipeline.launchers import ELASTIC, Cluster, launch

if TYPE_CHECKING:
    from pipeline.monitoring.health import Asked

_CONFIG = flags.DEFINE_string("config", None, "Path of a TOML config, or the name of a shipped one, such as cartpole.")
_RUN_DIR = flags.DEFINE_string("run_dir", None, "Where the run leaves everything; new, unless --resume is given.")
_SEED = flags.DEFINE_integer("seed", None, "Replaces the config's seed.", lower_bound=0)
_LAUNCHER = flags.DEFINE_string(
    "launcher",
    "local",
    "local: each role a process; inline: all roles in one, for debugging; ray: each on some node of a Ray cluster; or "
    "module:run, a function of your own.",
)
_RAY_ADDRESS = flags.DEFINE_string(
    "ray_address",
    None,
    "host:port of a Ray cluster that this machine is a node of; auto: the one that runs here, the default; local: one "
    "for this run alone, on this machine.",
)
_SHARED_RUN_DIR = flags.DEFINE_bool(
    "shared_run_dir", False, "All nodes of the Ray cluster see --run_dir: the replay's servers spread over them."
)
_SET = flags.DEFINE_multi_string(
    "set", [], "A line of TOML that overrides the config, such as agent.n_step=3; may be repeated."
)
_REQUIRE_PRIVATE = flags.DEFINE_bool(
    "require_private", False, "Refuse to run where others could reach the replay over the network."
)
_METRICS = flags.DEFINE_string(
    "metrics",
    None,
    "Where the run serves /metrics of all its roles, /healthz and /readyz: host:port, or unix:/path; with "
    "--launcher=local.",
)
_LOG_FORMAT = flags.DEFINE_enum(
    "log_format", "text", ["text", "json"], "json: what is printed and logged is one object a line."
)
_RESUME = flags.DEFINE_bool("resume", False, "Go on from the newest checkpoint in --run_dir; start if there is none.")


def main(arguments: list[str]) -> int:
    """Checks the command line and runs the experiment."""
    started = time.time()
    refuse_more(arguments)
    if not _RUN_DIR.value:
        raise UsageError("--run_dir is missing: where should the run leave its files?")
    run = RunDirectory(Path(_RUN_DIR.value))
    name = _CONFIG.value
    if name is None and _RESUME.value and run.config.is_file():
        name = str(run.config)
    if name is None:
        none = f"{run.path} holds no run to go on, and " if _RESUME.value else ""
        raise UsageError(f"{none}--config is missing: give a path or the name of a shipped config")
    if _LAUNCHER.value not in ELASTIC and (_RAY_ADDRESS.value or _SHARED_RUN_DIR.value):
        raise UsageError("--ray_address and --shared_run_dir are for --launcher=ray: leave them out")
    asked = _asked(run)
    experiment = load(name, tuple(_SET.value), _SEED.value)
    return launch(
        experiment,
        run.path,
        launcher=_LAUNCHER.value,
        resume=_RESUME.value,
        started=started,
        require_private=_REQUIRE_PRIVATE.value,
        cluster=Cluster(_RAY_ADDRESS.value or "auto", _SHARED_RUN_DIR.value),
        asked=asked,
    )


def _asked(run: RunDirectory) -> "Asked | None":
    """What operators ask for by flags, and systemd by its variables; None if that is nothing."""
    if not _METRICS.value and _LOG_FORMAT.value == "text" and "NOTIFY_SOCKET" not in os.environ:
        return None
    from pipeline.messages import listening
    from pipeline.monitoring import log_lines
    from pipeline.monitoring.health import Asked, ServiceManager

    source = log_lines.Source(run.path.resolve().name, "supervisor", 0, run.incarnations("learner"))
    terminal = None
    if _LOG_FORMAT.value == "json":
        terminal = log_lines.JsonTerminal(source)
        terminal.take_streams()
    if _METRICS.value and _LAUNCHER.value != "local":
        raise UsageError(f"--metrics is for --launcher=local: leave it out with --launcher={_LAUNCHER.value}")
    at = listening.at(_METRICS.value, "--metrics") if _METRICS.value else None
    manager = ServiceManager.of(os.environ) if _LAUNCHER.value == "local" else None
    return Asked(source, at, manager, terminal is not None, terminal)


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
