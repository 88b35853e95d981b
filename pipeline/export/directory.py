"""The directory of an exported policy: written whole or not at all, and read without TensorFlow."""

from pathlib import Path
from typing import NamedTuple

import msgspec

from agents import extensions
from agents.struct_types import prepared
from pipeline.acting import policy_files, stored_policies
from pipeline.acting.policy_files import MadeFor, Policy
from pipeline.environments import Spaces
from pipeline.experiment import config
from pipeline.experiment.config import UsageError
from pipeline.experiment.run_directory import RunDirectory, write_json
from pipeline.experiment.sections import Experiment
from pipeline.export.interface import Interface, unshielded_spaces
from pipeline.export.model_card import Origin, model_card
from pipeline.records.results import Summary
from pipeline.runtime.output_folder import refuse_taken, write_whole
from pipeline.runtime.process import quieten_gym
from pipeline.security import strangers

_CARD = Path("README.md")
_CONFIG = Path("config.toml")
_INTERFACE = Path("interface.json")
_POLICY = Path("policy.msgpack")
_OURS = {
    _CARD: "the model card",
    _CONFIG: "the run's configuration",
    _INTERFACE: "inputs and outputs, for pipeline.serve",
    _POLICY: "the policy, for pipeline.serve",
}


class ExportResult(NamedTuple):
    """The files that an export wrote, and why others are missing."""

    files: dict[Path, str]
    """What each is."""
    missing: dict[Path, str]
    """Why each could not be made."""
    shield_obstacle: str
    """Why the shield is not inside of the models; empty where it is, or where there is none."""


class ExportedPolicy(NamedTuple):
    """A policy with all that is needed to act with it."""

    experiment: Experiment | None
    """None of one that is read without importing what its config names, which it could not be read without."""
    interface: Interface
    policy: Policy


def origin(run_dir: Path, which: str) -> Origin:
    """What is to be exported.

    Args:
      run_dir: the run's.
      which: of its policies, "best" or "latest".

    Raises:
      UsageError: there is no run, or no policy yet.
    """
    run = RunDirectory(run_dir)
    experiment, policy = run.experiment(), stored_policies.load(run.policies / which)
    summary = msgspec.json.decode(run.summary.read_bytes(), type=prepared(Summary)) if run.summary.is_file() else None
    return Origin(str(run_dir), which, experiment, policy, summary)


def write(source: Origin, out: Path) -> ExportResult:
    """Exports a policy.

    Args:
      source: what.
      out: a directory that does not exist or is empty.

    Raises:
      UsageError: it cannot be written there, or the environment cannot be made.
      EnvironmentFault: the environment's first observation is not as it should be.
    """
    out = out.resolve()
    refuse_taken(out)
    spaces = _fitting(source)
    quieten_gym()
    from pipeline.export.models import MODELS, Model  # imports TensorFlow, which usage errors do not wait for

    model = Model(source.experiment, Interface.of(source.experiment, spaces), spaces.observation, source.policy)
    missing: dict[Path, str] = {}
    files: dict[Path, str] = {}

    def fill(part: Path) -> None:
        missing.update(model.write(part))
        files.update({**_OURS, **{path: what for path, what in MODELS.items() if path not in missing}})
        (part / _CONFIG).write_text(config.dump(source.experiment))
        write_json(part / _INTERFACE, model.interface)
        policy_files.save(source.policy, part)
        (part / _CARD).write_text(model_card(source, model.interface, files, missing))

    write_whole(out, fill)
    return ExportResult(files, missing, model.shield_obstacle)


def is_export(folder: Path) -> bool:
    """Whether a folder holds an exported policy."""
    return (folder / _INTERFACE).is_file()


def read(folder: Path) -> ExportedPolicy:
    """An exported policy.

    Raises:
      UsageError: there is none in the folder, or it is of another version.
    """
    try:
        interface = msgspec.json.decode((folder / _INTERFACE).read_bytes(), type=prepared(Interface))
        text, policy = (folder / _CONFIG).read_text(), stored_policies.load(folder)
        experiment = _experiment(text, folder, policy)
    except FileNotFoundError as error:
        raise UsageError(f"{folder} holds no exported policy: there is no {Path(error.filename).name}") from None
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(f"{folder} holds no exported policy of this version: {error}") from None
    return ExportedPolicy(experiment, interface, policy)


def _experiment(text: str, folder: Path, policy: Policy) -> Experiment | None:
    """The experiment of an exported policy; None where it names code that is not trusted and the policy needs none."""
    try:
        return config.parse(text, source=str(folder / _CONFIG))
    except UsageError:
        if extensions.distrusted.get() and policy.program and strangers.named_code(folder):
            return None
        raise


def _fitting(source: Origin) -> Spaces:
    """The spaces of the run's environment.

    Raises:
      UsageError: the policy was made for others, or the environment cannot be made.
      EnvironmentFault: the environment's first observation is not as it should be.
    """
    spaces, made_for = unshielded_spaces(source.experiment), source.policy.made_for
    if made_for is not None and not source.experiment.evaluation.kwargs:
        stored_policies.refuse_other(made_for, MadeFor.of(spaces.observation, spaces.action))
    return spaces


def of_run(run_dir: Path, which: str) -> ExportedPolicy:
    """A run's policy, with nothing written.

    Raises:
      UsageError: there is no run, or no policy yet, or the environment cannot be made.
      EnvironmentFault: the environment's first observation is not as it should be.
    """
    source = origin(run_dir, which)
    interface = Interface.of(source.experiment, _fitting(source))
    return ExportedPolicy(source.experiment, interface, source.policy)
