"""The peers' fixed work, one gradient step an environment step, with the replay in the learner's process and beside it.

These are whole runs of the local launcher, one after the other.
"""

import itertools
import time
from collections.abc import Mapping

from benchmarks.peers.ours import fixed
from benchmarks.peers.works import Request
from benchmarks.scaling.measured.windows import Setting

FORMS = {"embedded": 0, "one shard": 1}


def settings(steps: int) -> list[Setting]:
    """A setting for each form; a run's seed is the number of its repeat.

    Args:
      steps: gradient steps of one run.
    """
    return [_setting(name, shards, steps) for name, shards in FORMS.items()]


def _setting(name: str, shards: int, steps: int) -> Setting:
    seeds = itertools.count()

    def measure() -> Mapping[str, float]:
        request = Request("fixed", next(seeds), steps, 60.0, (), (), time.time())
        result = fixed(request, (f"replay.shards={shards}", 'replay.private="loopback"'))
        return {name: float(value) for name, value in result.items()}

    return Setting(name, [], measure)
