"""Fields of the kinds that learn a policy itself."""

from typing import Literal

from agents.config_fields import (
    Activation,
    AdamEpsilon,
    ClipNorm,
    DecaySteps,
    FinalLearningRate,
    HiddenUnits,
    ImageTorso,
    KindConfig,
    LayerNorm,
    LearningRate,
    NormalizeObservations,
    Torso,
    rising_learning_rate,
)


class PolicyConfig(KindConfig, frozen=True):
    """Fields of all kinds that learn a policy itself, by a network and Adam."""

    hidden_units: HiddenUnits = (64, 64)
    activation: Activation = "tanh"
    image_torso: ImageTorso = "nature"
    torso: Torso = ""
    normalize_observations: NormalizeObservations = False
    layer_norm: LayerNorm = False
    learning_rate: LearningRate = 1e-3
    learning_rate_final: FinalLearningRate = 1e-4
    learning_rate_decay_steps: DecaySteps = 0
    adam_epsilon: AdamEpsilon = 1e-5
    gradient_clip_norm: ClipNorm = 0.5

    def problem(self) -> str:
        """See `KindConfig`."""
        return rising_learning_rate(self.learning_rate, self.learning_rate_final, self.learning_rate_decay_steps)

    @property
    def learns_policy(self) -> bool:
        """See `KindOfAgent`."""
        return True

    @property
    def priority_unit(self) -> Literal["return", "rescaled return", "nat", ""]:
        """See `KindOfAgent`: there are none."""
        return ""
