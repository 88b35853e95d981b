"""What learns: agents, their configurations and their mathematics, on TF-Agents.

`build` and `BUILDERS` import TensorFlow when first used; configurations and specs do not.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from agents.config_fields import Config
from agents.configs import (
    AgentConfig,
    BehaviourCloningConfig,
    C51Config,
    DqnConfig,
    IqnConfig,
    PpoConfig,
    QLearningConfig,
    QrDqnConfig,
    R2d2Config,
    RainbowConfig,
    ReinforceConfig,
)
from agents.exploration import ExplorationConfig
from agents.specs import ArraySpec, Specs

if TYPE_CHECKING:
    from agents.builder import Builder, LearningAgent

    BUILDERS: Mapping[str, Builder]

__all__ = [
    "BUILDERS",
    "AgentConfig",
    "ArraySpec",
    "BehaviourCloningConfig",
    "C51Config",
    "Config",
    "DqnConfig",
    "ExplorationConfig",
    "IqnConfig",
    "PpoConfig",
    "QLearningConfig",
    "QrDqnConfig",
    "R2d2Config",
    "RainbowConfig",
    "ReinforceConfig",
    "Specs",
    "build",
]


def build(kind: str, specs: Specs, config: AgentConfig, *, epsilon: float = 0.1, seed: int = 0) -> "LearningAgent":
    """Builds an agent of a kind of `BUILDERS`, within the distribution strategy in scope.

    Args:
      kind: a key of `BUILDERS`, such as "dqn".
      specs: the environment's interface; `Specs.from_tf_agents` makes it of a TF-Agents environment's specs.
      config: the kind's configuration, such as `DqnConfig`.
      epsilon: of the agent's own `collect_policy`, a probability; policy gradients draw from the policy instead.
      seed: of the initial weights.

    Returns:
      An initialized `tf_agents.agents.TFAgent`.

    Raises:
      ValueError: no such kind, the configuration of another one, a value out of its range, or an environment that the
        kind cannot learn.
    """
    from agents.builder import build as build_agent

    return build_agent(kind, specs, config, epsilon=epsilon, seed=seed)


def __getattr__(name: str) -> Any:
    if name == "BUILDERS":
        from agents.builder import BUILDERS

        return BUILDERS
    raise AttributeError(f"module 'agents' has no attribute {name!r}")
