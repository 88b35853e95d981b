"""Learning from the replay of a finished run, without collectors. No TensorFlow here."""

from pathlib import Path

import msgspec

from agents import Specs
from pipeline import checkpoint, environments
from pipeline.config import UsageError
from pipeline.run_directory import RunDirectory
from pipeline.sections import Experiment


def adopt(experiment: Experiment, specs: Specs) -> Experiment:
    """An experiment with the sizes of its dataset's items, so that its learner can read them.

    Args:
      experiment: with `offline.dataset`, the directory of another run.
      specs: of its environment.

    Raises:
      UsageError: there is no such dataset, or the agent cannot learn from it.
    """
    folder = Path(experiment.offline.dataset).resolve()
    named = f"offline.dataset={str(folder)!r}"
    if not RunDirectory(folder).config.is_file():
        raise UsageError(f"{named} holds no run: name the run directory of one whose experience is to be learned from")
    source = RunDirectory(folder).experiment()
    wanted, stored = experiment.agent, source.agent
    if stored.on_policy:
        raise UsageError(f"{named}: a run of {stored.kind!r} keeps no experience; name one of a kind with a replay")
    if checkpoint.newest(RunDirectory(folder).checkpoints) is None:
        raise UsageError(f"{named}: the run has no complete checkpoint yet")
    if environments.describe(source.environment) != specs:
        raise UsageError(
            f"{named} holds experience of other observations or actions than environment.id="
            f"{experiment.environment.id!r} has: set the [environment] section of its config.toml"
        )
    if stored.state_units != wanted.state_units:
        raise UsageError(
            f"{named} holds frames with {stored.state_units} numbers of recurrent state, and agent.kind="
            f"{wanted.kind!r} learns from frames with {wanted.state_units}"
        )
    if stored.window_length < wanted.window_length:
        raise UsageError(
            f"{named} holds windows of {stored.window_length} frames, and the agent learns from "
            f"{wanted.window_length}: lower agent.n_step (or, of r2d2, agent.sequence or agent.burn_in)"
        )
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


def stored_replay(experiment: Experiment) -> Path | None:
    """Reverb's checkpoint that the dataset is in; None of an experiment that collects.

    Raises:
      UsageError: it has gone.
    """
    if not experiment.offline.dataset:
        return None
    newest = checkpoint.newest(RunDirectory(Path(experiment.offline.dataset)).checkpoints)
    if newest is None:
        raise UsageError(f"offline.dataset={experiment.offline.dataset!r} has no complete checkpoint any more")
    return newest.replay
