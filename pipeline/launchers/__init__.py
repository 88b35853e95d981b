"""Running an experiment: the checks before a run, and how its roles become processes.

Belongs here: `launch` and `train`, the registry that `--launcher` chooses from, and a file for each launcher. What a
role does in its process is in `pipeline.roles`.
"""

import importlib
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

import msgspec

from agents import Specs
from agents.struct_types import prepared
from pipeline import environments
from pipeline.experiment.config import UsageError, validate
from pipeline.experiment.run_directory import RunDirectory, write_json
from pipeline.experiment.sections import Experiment
from pipeline.launchers import sizes
from pipeline.messages.ports import refuse_used_port
from pipeline.records.recorder import mark_rest_ended
from pipeline.records.results import EXIT_CODES, Summary
from pipeline.security import privacy
from pipeline.security.privacy import Privacy

if TYPE_CHECKING:
    from pipeline.callbacks.callback import Callback
    from pipeline.callbacks.notifier import Notifier
    from pipeline.launchers.world import World
    from pipeline.monitoring.health import Asked

_REACHED = (
    "roles on other nodes of a Ray cluster reach the replay; Ray's own ports are open, too, and run what they are sent"
)


class BegunWithin(UsageError):
    """A run was begun in a process of a run."""


class Cluster(NamedTuple):
    """Where the Ray launcher runs roles."""

    address: str = "auto"
    """Of a cluster that this machine is a node of: host:port, or "auto" for the one that runs here; "local" starts one
    on this machine for the run."""
    shared_run_dir: bool = False
    """Whether all nodes see the run directory: the replay's servers then spread over them."""


class Launch(NamedTuple):
    """What to launch."""

    experiment: Experiment
    run: RunDirectory
    started: float
    """Wall-clock time at which the user's command started."""
    resume: bool
    privacy: Privacy
    """What keeps others out of the replay; processes of the run are started by its `command`."""
    cluster: Cluster = Cluster()
    checked_seconds: float = 0.0
    """That the check of the environment took: making and resetting one may take a role as long."""
    world: Optional["World"] = None
    """What the run's processes see; None is what the process that starts them sees."""
    callbacks: Optional["Notifier"] = None
    """Tells the caller's callbacks of the run; None where there are none."""
    asked: Optional["Asked"] = None
    """What operators have asked for."""

    @property
    def shows_progress(self) -> bool:
        """Whether the launcher's own display is to show how the run goes on, as no callback does."""
        return self.callbacks is None or not self.callbacks.shows_progress


LAUNCHERS: Mapping[str, str] = {
    "local": "pipeline.launchers.local",
    "inline": "pipeline.launchers.inline",
    "ray": "pipeline.launchers.ray_cluster",
}
"""Modules, imported when chosen: `run(launch)` runs an experiment to its end, shows how it goes, returns the exit code.
Those in `ELASTIC` have `joined`, of what a run joins first. A user's own is a function or has one, maybe `separate`."""

SEPARATE = frozenset({"local"})
"""Those whose roles are all processes of this machine beside the caller's: a network namespace can hold them."""

ELASTIC = frozenset({"ray"})
"""Those whose roles may be on other machines, and come and go with them."""


def _module(launcher: str) -> Any:
    """The module of a launcher, or what has its function `run` if it is the user's own.

    Raises:
      UsageError: the package whose name it bears is not installed, or there is no such launcher.
    """
    if launcher not in LAUNCHERS:
        from pipeline.launchers.environment_check import own_launcher

        return own_launcher(launcher)
    try:
        return importlib.import_module(LAUNCHERS[launcher])
    except ModuleNotFoundError as error:
        if error.name != launcher:
            raise
        from pipeline.runtime.installation import how_to_install

        raise UsageError(f"--launcher={launcher} needs {launcher}: install it by {how_to_install(launcher)}") from None


def describe(experiment: Experiment) -> Specs:
    """Makes an experiment's environment, to see what it observes and whether the agent can learn from it.

    Raises:
      UsageError: there is no such environment here, or not for this agent.
    """
    try:
        specs = environments.check(experiment.environment, experiment.collect.lanes)
        if (
            experiment.evaluates
            and experiment.evaluation.kwargs
            and environments.describe(experiment.evaluation_environment) != specs
        ):
            raise UsageError(
                "evaluation.kwargs make an environment with other observations or actions than environment.kwargs do"
            )
    except environments.EnvironmentFault as fault:
        raise UsageError(str(fault)) from None
    if (stack := experiment.environment.frame_stack) > 1:
        from pipeline.acting.frame_stacks import stacked

        seen = stacked(specs, stack)
    else:
        seen = specs
    if reason := experiment.agent.unsuitable_for(seen):
        raise UsageError(f"agent.kind={experiment.agent.kind!r}: {reason}")
    sizes.refuse(experiment, specs)
    agent: Any = experiment.agent
    if agent.builder or getattr(agent, "torso", "") or getattr(agent, "optimizer", "adam") != "adam":
        from pipeline.launchers.environment_check import refuse_unbuildable

        refuse_unbuildable(experiment, seen)
    if agent.initial_policy:
        from pipeline.launchers.environment_check import refuse_unfit

        refuse_unfit(experiment, seen)
    return specs


def launch(
    experiment: Experiment,
    run_dir: Path,
    *,
    launcher: str = "local",
    resume: bool = False,
    started: float | None = None,
    require_private: bool = False,
    cluster: Cluster | None = None,
    callbacks: Optional["Notifier"] = None,
    asked: Optional["Asked"] = None,
) -> int:
    """Checks an experiment and runs it to its end; returns the exit code.

    Raises:
      UsageError: it cannot be run as it is; nothing has been written.
    """
    started = time.time() if started is None else started
    if not isinstance(launcher, str):
        raise UsageError(f"no launcher {launcher!r}; there are {', '.join(LAUNCHERS)}")
    is_separate = launcher in SEPARATE or bool(getattr(_module(launcher), "separate", False))
    validate(experiment)
    if launcher not in ELASTIC and experiment.collectors > experiment.collect.collectors:
        raise UsageError(
            f"collect.max_collectors={experiment.collect.max_collectors} is for nodes that join a run of "
            f"--launcher=ray: set it to 0 with --launcher={launcher}"
        )
    if (steps := experiment.learner.local_steps) > 1:
        raise UsageError(f"learner.local_steps={steps} is of several learners, and --launcher={launcher} starts one")
    if launcher != "local" and experiment.collect.inference == "central":
        raise UsageError(f"--launcher={launcher} starts no acting server: set collect.inference='local'")
    _refuse_within_run()
    if resume:
        from pipeline.launchers.conclusion import ended, forget_lost
    run = RunDirectory(run_dir.resolve())
    mirrored: AbstractContextManager[None] = nullcontext()
    if experiment.agent.initial_policy or experiment.offline.dataset or experiment.checkpoint.mirror:
        from pipeline.launchers.environment_check import placed

        experiment, mirrored = placed(experiment, run, resume)
    if not experiment.is_offline:
        experiment = run.check(experiment, resume)
        if resume and ended(experiment, run):
            return 0
    cluster, reached = cluster or Cluster(), _REACHED if launcher in ELASTIC else ""
    refuse_used_port(experiment.replay.port)
    refuse_used_port(experiment.replay.weights_port)
    if experiment.agent.paper:
        from pipeline.experiment.papers import departures

        if sentence := departures(experiment):
            print(sentence, file=sys.stderr)
    with (
        privacy.arranged(experiment, is_separate, require_private, reached) as (experiment, private),
        _module(launcher).joined(experiment, cluster) if launcher in ELASTIC else nullcontext(),
    ):
        if sys.stdout.isatty():
            print("starting: trying the environment", flush=True)
        began = time.monotonic()
        tried = experiment
        if resume and experiment.agent.initial_policy:
            from pipeline.launchers.environment_check import going_on

            tried = going_on(experiment, run)
        specs, world = _seen_by_roles(tried, launcher, private)
        checked = time.monotonic() - began
        if experiment.offline.dataset:
            from pipeline.datasets import offline

            experiment = offline.prepared(experiment, specs, run, resume)
            experiment = run.check(experiment, resume)
            if resume and ended(experiment, run):
                return 0
        if any(len(spec.shape) > 1 for spec in specs.leaves().values()):
            from pipeline.launchers.environment_check import remark_on_pictures

            remark_on_pictures(experiment, specs)
        for warned in sizes.warnings(experiment, specs, run.path):
            print(f"warning: {warned.words}: {warned.remedy}", file=sys.stderr)
        run.lock()
        try:
            run.create(experiment)
            write_json(run.specs, specs)
            if resume:
                forget_lost(run)
            mark_rest_ended(run.recorders)
            given = Launch(experiment, run, started, resume, private, cluster, checked, world, callbacks, asked)
            if callbacks is not None:
                callbacks.start(experiment, run, launcher, resume)
            with mirrored:
                return int(_module(launcher).run(given))
        except BaseException as error:
            from pipeline.launchers.conclusion import keep_reason

            keep_reason(run, experiment, error)
            raise
        finally:
            run.unlock()


def _seen_by_roles(experiment: Experiment, launcher: str, private: Privacy) -> tuple[Specs, Optional["World"]]:
    """`describe` where the roles will be, and their world: in this process, or in one that is started as theirs are."""
    if launcher == "inline":
        return describe(experiment), None
    from pipeline.launchers.environment_check import specs_in_process
    from pipeline.launchers.world import World

    world = World.here()
    return specs_in_process(experiment, world, private), world


def _refuse_within_run() -> None:
    """Refuses a run within a process of a run's, which imports the module that began it."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if spec is not None and spec.name in ("pipeline.role", "pipeline.launchers.environment_check"):
        raise BegunWithin(
            "the module of the environment begins a run when it is imported: put that under `if __name__ == "
            "'__main__':`"
        )


def train(
    experiment: Experiment,
    run_dir: str | os.PathLike[str],
    *,
    launcher: str = "local",
    resume: bool = False,
    callbacks: Sequence["Callback"] = (),
    require_private: bool = False,
    cluster: Cluster | None = None,
) -> Summary:
    """Runs an experiment to its end.

    Args:
      experiment: what to run, such as `pipeline.experiment.config.load("cartpole")`.
      run_dir: where it leaves config, summary, TensorBoard files, checkpoints, policies and logs.
      launcher: "local", each role a process; "inline", all in this one; "ray", each on some node of a cluster; or your
        own, "module:run".
      resume: go on from the newest checkpoint in `run_dir`.
      callbacks: are told of the run while it goes on, and may end it; see `pipeline.Callback`.
      require_private: refuse to run where others could reach the replay over the network.
      cluster: of "ray"; None is the one that this machine is a node of.

    Returns:
      The summary that is also in `run_dir/summary.json`.

    Raises:
      UsageError: the experiment cannot be run as it is. Nothing has been written, unless a role alone could see that.
      RunFailed: the run ended before it reached a stop condition: it failed, stalled, diverged or was interrupted.
      BaseException: what a callback has raised, once the run has ended with a checkpoint.
    """
    if not isinstance(run_dir, str | os.PathLike) or not os.fspath(run_dir):
        raise UsageError(f"run_dir is the path of a folder, not {run_dir!r}")
    options: dict[str, Any] = {"resume": resume, "require_private": require_private, "cluster": cluster or Cluster()}
    for name, value in options.items():
        kind = Cluster if name == "cluster" else bool
        if not isinstance(value, kind):
            raise UsageError(f"{name} is of type {kind.__name__}, not {value!r}")
    run = RunDirectory(Path(run_dir).resolve())
    with _telling(callbacks) as told:
        code = launch(experiment, run.path, launcher=launcher, **options, callbacks=told)
    try:
        summary = msgspec.json.decode(run.summary.read_bytes(), type=prepared(Summary))
    except (OSError, msgspec.DecodeError) as error:  # the disk did not take it, or it was removed meanwhile
        raise RuntimeError(f"the run ended with exit code {code}, and its summary cannot be read: {error}") from None
    if code == EXIT_CODES["refused"]:
        raise UsageError(summary.message)
    if code:
        from pipeline.launchers.conclusion import RunFailed

        raise RunFailed(summary)
    return summary


def _telling(callbacks: Any) -> AbstractContextManager[Optional["Notifier"]]:
    """What tells the callbacks of a run, if there are any."""
    if callbacks == ():
        return nullcontext()
    from pipeline.callbacks.callback import checked
    from pipeline.callbacks.notifier import telling

    return telling(checked(callbacks))
