"""How the roles of a run become processes: the registry that `--launcher` chooses from."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from pipeline.privacy import Privacy
from pipeline.run_directory import RunDirectory
from pipeline.sections import Experiment


class Launch(NamedTuple):
    """What to launch."""

    experiment: Experiment
    run: RunDirectory
    started: float
    """Wall-clock time at which the user's command started."""
    resume: bool
    privacy: Privacy
    """What keeps others out of the replay; processes of the run are started by its `command`."""


def _local(launch: Launch) -> int:
    from pipeline.launchers import local

    return local.run(launch)


def _inline(launch: Launch) -> int:
    from pipeline.launchers import inline

    return inline.run(launch)


LAUNCHERS: Mapping[str, Callable[[Launch], int]] = {"local": _local, "inline": _inline}
"""Each runs an experiment to its end, shows its progress, and returns the exit code. Imported when chosen."""

SEPARATE = frozenset({"local"})
"""Those whose roles are all processes of this machine beside the caller's: a network namespace can hold them."""
