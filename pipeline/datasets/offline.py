"""Fits an experiment to the dataset that it learns from offline: a run's replay, or files. No TensorFlow here."""

from pathlib import Path

import msgspec

from agents import Specs
from pipeline import environments
from pipeline.datasets import datasets
from pipeline.datasets.datasets import Dataset
from pipeline.experiment.config import UsageError
from pipeline.experiment.run_directory import RunDirectory
from pipeline.experiment.sections import Experiment
from pipeline.records import checkpoint
from pipeline.records.checkpoint import Checkpoint
from pipeline.replay.frames import FrameLayout
from pipeline.security import strangers

_ITEM_WINDOWS = 64
"""More windows than an item made of files has."""


def adopt(experiment: Experiment, specs: Specs) -> Experiment:
    """An experiment with the sizes of its dataset's items, so that its learner can read them.

    Args:
      experiment: with `offline.dataset`, the directory of another run or of a dataset in files.
      specs: of its environment.

    Raises:
      UsageError: there is no such dataset, or the agent cannot learn from it.
    """
    folder = Path(experiment.offline.dataset).resolve()
    named, run = f"offline.dataset={str(folder)!r}", RunDirectory(folder)
    strangers.warn(folder, strangers.FOR_LEARNING)
    if not run.config.is_file():
        if (files := datasets.find(folder)) is not None:
            return _adopt_files(experiment, specs, folder, files)
        raise UsageError(
            f"{named} holds no run and no dataset: name the run directory of one whose experience is to be learned "
            "from, or a folder that `pipeline.replay export` or Minari has written"
        )
    source, newest = run.experiment(), checkpoint.newest(run.checkpoints)
    if newest is None or not (source.is_offline or newest.counters.windows):
        raise UsageError(f"{named}: the run has no whole checkpoint with experience")
    wanted, stored = experiment.agent, source.agent
    problems = [
        *_of_source(source, experiment, specs),
        (
            source.environment.frame_stack != experiment.environment.frame_stack,
            f"its items hold the frames of stacks of {source.environment.frame_stack}: set environment.frame_stack so",
        ),
        (
            stored.state_units != wanted.state_units,
            f"its frames hold {stored.state_units} numbers of recurrent state, and agent.kind={wanted.kind!r} learns "
            f"from frames with {wanted.state_units}",
        ),
        (
            stored.window_length < wanted.window_length,
            f"it holds windows of {stored.window_length} frames, and the agent learns from {wanted.window_length}: "
            "lower agent.n_step (or, of r2d2, agent.sequence or agent.burn_in)",
        ),
        (
            experiment.learner.batch_size * experiment.learner.steps_per_call % source.windows_per_item != 0,
            f"learner.batch_size * learner.steps_per_call has to be a multiple of the {source.windows_per_item} "
            "windows of its items",
        ),
    ]
    for is_wrong, sentence in problems:
        if is_wrong:
            raise UsageError(f"{named}: {sentence}")
    replay = msgspec.structs.replace(
        experiment.replay,
        capacity=source.replay.capacity,
        min_size=1,
        lanes_per_item=source.lanes_per_item,
        steps_per_item=source.steps_per_item,
    )
    return msgspec.structs.replace(
        experiment,
        offline=msgspec.structs.replace(experiment.offline, dataset=str(folder)),
        replay=replay,
        collect=msgspec.structs.replace(experiment.collect, lanes=source.collect.lanes),
    )


def _of_source(source: Experiment, experiment: Experiment, specs: Specs) -> list[tuple[object, str]]:
    """What is wrong with a run as a dataset, whatever is made of its items; see `Checks` of a config."""
    return [
        (source.is_offline, f"its run learned from {source.offline.dataset!r}: name that"),
        (
            source.agent.on_policy,
            f"a run of {source.agent.kind!r} keeps no experience: name one of a kind with a replay",
        ),
        (
            source.exploration.paid_by,
            f"its rewards hold the bonus of {source.exploration.paid_by}: name a run without",
        ),
        (
            environments.describe(source.environment).plain() != specs.plain(),
            f"its observations or actions are others than those of environment.id={experiment.environment.id!r}: set "
            "the [environment] section of its config.toml",
        ),
    ]


def refuse_unlike(experiment: Experiment, specs: Specs) -> None:
    """Refuses a dataset that cannot be beside what collectors store; its own sizes do not matter.

    Args:
      experiment: with `offline.dataset` and a share below 1.
      specs: of its environment.

    Raises:
      UsageError: there is no such dataset, or it is of something else.
    """
    folder = Path(experiment.offline.dataset).resolve()
    named, run = f"offline.dataset={str(folder)!r}", RunDirectory(folder)
    strangers.warn(folder, strangers.FOR_LEARNING)
    if run.config.is_file():
        source, newest = run.experiment(), checkpoint.newest(run.checkpoints)
        if newest is None or not (source.is_offline or newest.counters.windows):
            raise UsageError(f"{named}: the run has no whole checkpoint with experience")
        for is_wrong, sentence in _of_source(source, experiment, specs):
            if is_wrong:
                raise UsageError(f"{named}: {sentence}")
    elif (files := datasets.find(folder)) is None:
        raise UsageError(
            f"{named} holds no run and no dataset: name the run directory of one whose experience is to be learned "
            "from, or a folder that `pipeline.replay export` or Minari has written"
        )
    else:
        _refuse_files(experiment, specs, folder, files)


def _refuse_files(experiment: Experiment, specs: Specs, folder: Path, files: Dataset) -> None:
    if not datasets.same_interface(files.specs, specs):
        raise UsageError(
            f"offline.dataset={str(folder)!r}: its observations, actions or action masks are others than those of "
            f"environment.id={experiment.environment.id!r}: set the [environment] section that it was collected with"
        )
    if not files.steps:
        raise UsageError(f"offline.dataset={str(folder)!r} holds no transition: export a run that has whole episodes")
    files.verify(FrameLayout.of(experiment, specs))


def _adopt_files(experiment: Experiment, specs: Specs, folder: Path, files: Dataset) -> Experiment:
    """`adopt` for a dataset in files: its episodes become the items of one lane, one episode after the other."""
    _refuse_files(experiment, specs, folder, files)
    replay = msgspec.structs.replace(
        experiment.replay,
        # A window for each transition, and one for the last frame of each episode: there may be as many of these.
        capacity=2 * files.steps + _ITEM_WINDOWS,
        min_size=1,
        lanes_per_item=0,
        steps_per_item=0,
    )
    sized = msgspec.structs.replace(
        experiment,
        offline=msgspec.structs.replace(experiment.offline, dataset=str(folder)),
        replay=replay,
        collect=msgspec.structs.replace(experiment.collect, lanes=1),
    )
    items = {"lanes_per_item": sized.lanes_per_item, "steps_per_item": sized.steps_per_item}
    return msgspec.structs.replace(sized, replay=msgspec.structs.replace(replay, **items))


def prepared(experiment: Experiment, specs: Specs, run: RunDirectory, resume: bool) -> Experiment:
    """An experiment with `offline.dataset` as it is run: alone from it with the sizes of its items.

    A run that goes on needs the dataset no more: it has kept what it learns from.

    Raises:
      UsageError: there is no such dataset, or it cannot be learned from.
    """
    if experiment.is_offline:
        return (resume and adopted(experiment, run)) or adopt(experiment, specs)
    if not (resume and checkpoint.exists(run.checkpoints)):
        refuse_unlike(experiment, specs)
    return experiment


def adopted(experiment: Experiment, run: RunDirectory) -> Experiment | None:
    """An experiment with the sizes that `adopt` gave its run before a resume; None if there is no checkpoint of it."""
    if not run.config.is_file() or not checkpoint.exists(run.checkpoints):
        return None
    own = run.experiment()
    if not own.is_offline:
        return None
    sizes = ("capacity", "min_size", "lanes_per_item", "steps_per_item")
    return msgspec.structs.replace(
        experiment,
        offline=own.offline,
        replay=msgspec.structs.replace(experiment.replay, **{name: getattr(own.replay, name) for name in sizes}),
        collect=msgspec.structs.replace(experiment.collect, lanes=own.collect.lanes),
    )


def dataset(experiment: Experiment) -> Checkpoint | Dataset:
    """The checkpoint or the files that the dataset of an offline run is in.

    Raises:
      UsageError: it has gone.
    """
    folder = Path(experiment.offline.dataset)
    found = checkpoint.newest(RunDirectory(folder).checkpoints) or datasets.find(folder)
    if found is None:
        raise UsageError(f"offline.dataset={experiment.offline.dataset!r} holds no whole dataset any more")
    return found
