"""How the roles of a run become processes: the registry that `--launcher` chooses from.

Belongs here: a file for each launcher, and the checks before a run. What a role does in its process is in
`pipeline.roles`.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import NamedTuple

from pipeline.experiment.config import UsageError
from pipeline.experiment.run_directory import RunDirectory
from pipeline.experiment.sections import Experiment
from pipeline.security.privacy import Privacy


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


def _local(launch: Launch) -> int:
    from pipeline.launchers import local

    return local.run(launch)


def _inline(launch: Launch) -> int:
    from pipeline.launchers import inline

    return inline.run(launch)


def _ray(launch: Launch) -> int:
    from pipeline.launchers import ray_cluster

    return ray_cluster.run(launch)


def joined(experiment: Experiment, cluster: Cluster) -> AbstractContextManager[None]:
    """Joins the Ray cluster of a run for the length of a block.

    Raises:
      UsageError: Ray is not installed; or there is no such cluster, or no room on this node, on entering the block.
    """
    try:
        from pipeline.launchers import ray_cluster
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise UsageError("--launcher=ray needs Ray: install it with `pip install .[ray]`") from None
    return ray_cluster.joined(experiment, cluster)


LAUNCHERS: Mapping[str, Callable[[Launch], int]] = {"local": _local, "inline": _inline, "ray": _ray}
"""Each runs an experiment to its end, shows its progress, and returns the exit code. Imported when chosen."""

SEPARATE = frozenset({"local"})
"""Those whose roles are all processes of this machine beside the caller's: a network namespace can hold them."""

ELASTIC = frozenset({"ray"})
"""Those whose roles may be on other machines, and come and go with them."""
