"""Trying what is the user's before a run: the environment in a process like a role's, parts of the agent, a launcher.

The module is both sides: `specs_in_process` starts itself as a program and reads what that has found.
"""

import contextlib
import inspect
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec

from agents import Specs, extensions
from agents.struct_types import prepared
from pipeline.environments.lanes.pictures import remarks
from pipeline.experiment import config
from pipeline.experiment.config import UsageError
from pipeline.experiment.run_directory import RunDirectory
from pipeline.experiment.sections import Experiment
from pipeline.launchers import LAUNCHERS, BegunWithin, describe
from pipeline.launchers.world import INHERIT, World
from pipeline.records import checkpoint_writer
from pipeline.runtime import belongings
from pipeline.runtime.process import die_with_parent, quieten_gym, settle_flags
from pipeline.security.privacy import Privacy

_MODULE = "pipeline.launchers.environment_check"
_INLINE = "run it with the launcher inline, which has all roles in this process"


class _Found(msgspec.Struct, frozen=True):
    """What the process has to say: the environment's specs, or why there are none."""

    specs: Specs | None = None
    refusal: str = ""
    broke: bool = False
    """Whether the code of the user's raised what only ends programs."""


class _Broken(UsageError):
    """The environment ended the process, or tried to."""


def specs_in_process(experiment: Experiment, world: World, privacy: Privacy) -> Specs:
    """Specs of the environment as the run's processes make it.

    Args:
      experiment: whose.
      world: that they are started in.
      privacy: and what keeps others out of their replay.

    Raises:
      UsageError: they cannot make it, or the agent cannot learn from it; says what would do, as where this process can.
    """
    try:
        return _tried(experiment, world, privacy)
    except _Broken:  # it might take this process with it, too
        raise
    except UsageError as error:
        if advice := _advice(experiment, world, privacy):
            raise UsageError(f"{error} ({advice})") from None
        raise


def _tried(experiment: Experiment, world: World, privacy: Privacy) -> Specs:
    told, answer, output = (os.memfd_create(name) for name in ("told", "answer", "output"))
    try:
        os.write(told, config.dump(experiment).encode())
        command = world.command(_MODULE, [str(told), str(answer), str(os.getpid())])
        belonging = belongings.folder_for("check")
        process = subprocess.Popen(
            privacy.command(command),
            pass_fds=(told, answer, *privacy.descriptors),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=world.folder,
            env={**world.variables_of("collector", experiment), belongings.VARIABLE: belonging},
            start_new_session=True,
        )
        try:
            code = process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):  # what it has started itself
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            belongings.remove(belonging)
        data, said = _read(answer), _read(output).decode(errors="replace")
    finally:
        for descriptor in (told, answer, output):
            os.close(descriptor)
    if not data:
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        words = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "it said nothing")
        name = experiment.environment.id or experiment.environment.import_path
        raise _Broken(f"the process in which environment {name!r} was tried ended with {how}: {words}")
    found = msgspec.msgpack.decode(data, type=prepared(_Found))
    if found.specs is None:
        raise (_Broken if found.broke else UsageError)(found.refusal)
    with contextlib.suppress(OSError, ValueError):  # warnings about the environment, say; stderr may be closed
        sys.stderr.write(said)
    return found.specs


def _read(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def _advice(experiment: Experiment, world: World, privacy: Privacy) -> str:
    """What would let the run's processes make an environment that this one can make; empty where it cannot, either."""
    try:
        describe(experiment)
    except Exception:  # it is wrong by itself
        return ""
    collect = msgspec.structs.replace(experiment.collect, devices=INHERIT)
    with_devices = msgspec.structs.replace(experiment, collect=collect)
    if with_devices != experiment and _works(with_devices, world, privacy):
        return f"it can be made with the GPUs that this process sees: set collect.devices={INHERIT!r}"
    if privacy.namespace is not None and _works(experiment, world, Privacy("loopback")):
        return 'it can be made where it sees the network: set replay.private="loopback"'
    environment = experiment.environment
    for name in ("import_path", "shield"):
        if getattr(environment, name).startswith("__main__:"):
            return (
                f"environment.{name} is of the program that was started, which the run's processes do not import: put "
                f"it into a module, or {_INLINE}"
            )
    if environment.id:
        return (
            "it is registered in this process alone: name the module that registers it, as in environment.id="
            f"'module:{environment.id}', or {_INLINE}"
        )
    return f"this process can make it, and those of the run cannot: {_INLINE}"


def _works(experiment: Experiment, world: World, privacy: Privacy) -> bool:
    try:
        _tried(experiment, world, privacy)
    except UsageError:
        return False
    return True


def refuse_unbuildable(experiment: Experiment, specs: Specs) -> None:
    """Refuses an agent with parts of the user's own that cannot be built, by building it once; others are left alone.

    Args:
      experiment: whose kind, torso or optimizer may be none of ours.
      specs: of what its network sees.

    Raises:
      UsageError: says what is wrong with them.
    """
    agent: Any = experiment.agent
    if not (agent.builder or getattr(agent, "torso", "")) and agent.optimizer in ("adamw", "radam", "rmsprop"):
        return
    for name in ("torso", "optimizer"):
        if str(getattr(agent, name, "")).startswith("__main__:"):
            raise UsageError(
                f"agent.{name}={getattr(agent, name)!r} is of the program that was started: put it into a module"
            )
    try:
        if getattr(agent, "torso", ""):  # before TensorFlow is imported
            extensions.found("torsos", agent.torso)
        quieten_gym()
        from agents import build

        build(agent.kind, specs, agent, open_fields=True)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # of the user's code, whatever that raises
        reason = " ".join(str(error).split())
        if not isinstance(error, ValueError) or not reason.startswith("agent."):
            reason = f"agent.kind={agent.kind!r} cannot be built: {type(error).__name__}: {reason}"
        raise UsageError(reason) from error


def refuse_unfit(experiment: Experiment, specs: Specs) -> None:
    """Refuses weights to begin with of which none fits the network; see `pipeline.acting.initial_policy`.

    Args:
      experiment: with `agent.initial_policy`; without it, nothing is refused.
      specs: of what its network sees.

    Raises:
      UsageError: says why they do not fit, or what cannot be read.
    """
    quieten_gym()
    from pipeline.acting import initial_policy

    initial_policy.refuse_unfit(experiment, specs)


def placed(
    experiment: Experiment, run: RunDirectory, resume: bool
) -> tuple[Experiment, contextlib.AbstractContextManager[None]]:
    """An experiment whose paths outside of its run are absolute: `config.toml` outlives the working folder.

    Returns:
      The experiment, and a context in which its run is mirrored where `checkpoint.mirror` says.

    Raises:
      UsageError: the mirror cannot be used; see `mirror_fetching.prepare`, which also fetches what a resume needs.
    """
    agent: Any = experiment.agent
    if agent.initial_policy:
        agent = msgspec.structs.replace(agent, initial_policy=_absolute(agent.initial_policy))
    offline = experiment.offline
    if offline.dataset:
        offline = msgspec.structs.replace(offline, dataset=_absolute(offline.dataset))
    experiment = msgspec.structs.replace(experiment, agent=agent, offline=offline)
    if not experiment.checkpoint.mirror:
        return experiment, contextlib.nullcontext()
    from pipeline.callbacks import mirror_fetching, mirroring

    experiment = mirror_fetching.prepare(experiment, run, resume, experiment.replay.shards)
    return experiment, mirroring.beside(experiment, run, experiment.replay.shards)


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().resolve())


def going_on(experiment: Experiment, run: RunDirectory) -> Experiment:
    """An experiment as it is tried before a resume: one that has a checkpoint needs no first weights any more."""
    if not checkpoint_writer.paths(run.checkpoints):
        return experiment
    agent: Any = experiment.agent
    return msgspec.structs.replace(experiment, agent=msgspec.structs.replace(agent, initial_policy=""))


def remark_on_pictures(experiment: Experiment, specs: Specs) -> None:
    """Says what may be a picture, or was guessed to be one without being sure, unless the config says so itself."""
    if experiment.environment.image_keys is None and not getattr(experiment.agent, "torso", None):
        for sentence in remarks(specs):
            print(sentence, file=sys.stderr)


def own_launcher(name: str) -> Any:
    """A launcher of the user's, registered or at `module:name`: what has a function `run`.

    Raises:
      UsageError: there is none, or it cannot be called.
    """
    if sentence := extensions.unknown("launchers", name, LAUNCHERS):
        raise UsageError(f"--launcher: {sentence}")
    try:
        given = extensions.found("launchers", name)
    except ValueError as error:
        raise UsageError(str(error)) from None
    run = getattr(given, "run", given)
    if not callable(run):
        kind = type(given).__name__
        raise UsageError(f"--launcher={name!r} is no function run(launch), nor has it one: it is of type {kind}")
    with contextlib.suppress(ValueError):  # some of Python's own have no signature
        try:
            inspect.signature(run).bind(given)
        except TypeError as error:
            raise UsageError(f"--launcher={name!r} takes no launch as its only argument: {error}") from None
    return SimpleNamespace(run=run, separate=getattr(given, "separate", False))


def _main(told: int, answer: int, parent: int) -> None:
    """The process: makes the environment and writes what it finds."""
    die_with_parent(parent)
    settle_flags()
    try:
        experiment = config.parse(_read(told).decode())
        found = _Found(describe(experiment))
    except UsageError as error:
        found = _Found(refusal=str(error), broke=isinstance(error, BegunWithin))
    except BaseException as error:  # whatever the user's code raises, SystemExit included
        found = _Found(refusal=f"the environment cannot be made: {type(error).__name__}: {error}", broke=True)
    os.pwrite(answer, msgspec.msgpack.encode(found), 0)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # threads of the environment's may never end


if __name__ == "__main__":
    arguments: Any = map(int, sys.argv[1:])
    _main(*arguments)
