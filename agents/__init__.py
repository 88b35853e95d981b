"""Agents that learn from experience, their configurations and their mathematics, on TF-Agents.

TensorFlow is imported when an agent is built; configurations and specs do without.
"""

from agents.builder import BUILDERS, build
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
