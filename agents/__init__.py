"""Agents that learn from experience, their configurations and their mathematics, on TF-Agents.

TensorFlow is imported when an agent is built; configurations and specs do without.
"""

from typing import TYPE_CHECKING, Any, Union

from agents.builder import BUILDERS, build, config_type
from agents.config_fields import Config, KindConfig
from agents.exploration import ExplorationConfig
from agents.specs import ArraySpec, Specs

if TYPE_CHECKING:
    from agents.config_fields import KindConfig as AgentConfig
    from agents.configs.behaviour_cloning import BehaviourCloningConfig
    from agents.configs.boot_dqn import BootDqnConfig
    from agents.configs.c51 import C51Config, RainbowConfig
    from agents.configs.dqn import DqnConfig
    from agents.configs.iql import IqlConfig
    from agents.configs.policy_gradient import PpoConfig, ReinforceConfig
    from agents.configs.pqn import PqnConfig
    from agents.configs.q_learning import QLearningConfig
    from agents.configs.quantile import IqnConfig, QrDqnConfig
    from agents.configs.r2d2 import R2d2Config

__all__ = [
    "BUILDERS",
    "AgentConfig",
    "ArraySpec",
    "BehaviourCloningConfig",
    "BootDqnConfig",
    "C51Config",
    "Config",
    "DqnConfig",
    "ExplorationConfig",
    "IqlConfig",
    "IqnConfig",
    "KindConfig",
    "PpoConfig",
    "PqnConfig",
    "QLearningConfig",
    "QrDqnConfig",
    "R2d2Config",
    "RainbowConfig",
    "ReinforceConfig",
    "Specs",
    "build",
    "config_type",
]


def __getattr__(name: str) -> Any:
    # When first asked for: a run needs the configuration of one kind.
    if name == "AgentConfig":  # the tagged union of all, in which `kind` chooses the member
        return Union[tuple(builder.config for builder in BUILDERS.values())]
    for builder in BUILDERS.values():
        if builder.config_path.endswith(f":{name}"):
            return builder.config
    raise AttributeError(f"module 'agents' has no attribute {name!r}")
