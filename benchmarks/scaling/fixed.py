"""The peers' fixed work, one gradient step an environment step, with the replay in the learner's process and beside it.

These are whole runs of the local launcher, one after the other.
"""

import time
from collections.abc import Callable, Mapping

from benchmarks.peers.ours import fixed
from benchmarks.peers.works import Request

FORMS = {"embedded": 0, "one shard": 1}


class Fixed:
    """Runs the work in each form in turn.

    Args:
      steps: gradient steps of one run.
    """

    def __init__(self, steps: int) -> None:
        self._steps = steps

    def measure(self, repeats: int, keep: Callable[[str, int, Mapping[str, float]], None]) -> None:
        """Runs all forms in turn; see `processes.in_turn`."""
        for repeat in range(repeats):
            for name, shards in FORMS.items():
                request = Request("fixed", repeat, self._steps, 60.0, (), (), time.time())
                result = fixed(request, (f"replay.shards={shards}", 'replay.private="loopback"'))
                keep(name, repeat, {name: float(value) for name, value in result.items()})
