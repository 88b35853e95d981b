"""Fields of the kinds that learn a policy itself."""

from typing import Literal

from agents.config_fields import (
    Activation,
    AdamEpsilon,
    ClipNorm,
    HiddenUnits,
)
from agents.configs.network import NetworkConfig


class PolicyConfig(NetworkConfig, frozen=True):
    """Fields of all kinds that learn a policy itself, by a network."""

    hidden_units: HiddenUnits = (64, 64)
    activation: Activation = "tanh"
    adam_epsilon: AdamEpsilon = 1e-5
    gradient_clip_norm: ClipNorm = 0.5

    @property
    def learns_policy(self) -> bool:
        """See `KindOfAgent`."""
        return True

    @property
    def priority_unit(self) -> Literal["return", "rescaled return", "nat", ""]:
        """See `KindOfAgent`: there are none."""
        return ""
