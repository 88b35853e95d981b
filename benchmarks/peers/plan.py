"""Which works there are, who takes part in them, and what each run of them is asked for."""

from collections.abc import Mapping
from dataclasses import dataclass

OURS = "reverb-dqn"
CEILINGS = "ceilings"
JITTED = "jitted_jax"
PEERS = ("cleanrl_jax", "cleanrl_torch", "sbx", "stable_baselines3", "tianshou", "rllib", "tf_agents")


@dataclass(frozen=True)
class Work:
    """One work.

    Attributes:
      peers: who takes part, ours apart.
      arguments: of every program.
      timeout: seconds after which a run is ended and counts as missing.
      cores: that a run is held to; 0 leaves it all.
      warm: read the packages' files first, so that start-up is the program's and not the disk's.
      of: the programs' name of the work.
    """

    of: str
    arguments: Mapping[str, object]
    timeout: float
    peers: tuple[str, ...] = PEERS
    cores: int = 0
    warm: bool = False


WORKS: dict[str, Work] = {
    "fixed": Work("fixed", {"steps": 20_000, "seconds": 12}, 300, (*PEERS, JITTED)),
    "learner": Work("learner", {"seconds": 3}, 300, (*PEERS, CEILINGS)),
    "collect": Work("collect", {"seconds": 2}, 300, (*PEERS, CEILINGS, JITTED)),
    "solve": Work("solve", {"seconds": 60}, 600, warm=True),
    "one_core": Work("fixed", {"steps": 20_000, "seconds": 20}, 300, ("stable_baselines3",), cores=1),
    "replay": Work("replay", {"seconds": 1}, 400, ("stable_baselines3", "tianshou")),
    "growth": Work("growth", {"seconds": 10}, 300, ()),
}
