"""Fields of the kinds that learn by a network."""

from agents.config_fields import (
    Activation,
    AdamEpsilon,
    ClipNorm,
    ClipValue,
    DecaySteps,
    FinalLearningRate,
    HiddenUnits,
    ImageTorso,
    KindConfig,
    LayerNorm,
    LearningRate,
    LearningRateSchedule,
    NormalizeObservations,
    Optimizer,
    Residual,
    RmsPropDecay,
    RmsPropEpsilon,
    Schedule,
    SpectralNorm,
    Torso,
    TorsoCells,
    TorsoPooling,
    TorsoWidth,
    WeightDecay,
)


def rising_learning_rate(initial: float, final: float, decay_steps: int) -> str:
    """What is wrong with a decay of the step size that would raise it; empty if it falls or does not change."""
    if not decay_steps or final <= initial:
        return ""
    return (
        f"learning_rate={initial:g} would rise to learning_rate_final={final:g} in {decay_steps} updates: set "
        f"learning_rate_final to at most {initial:g}, or learning_rate_decay_steps=0"
    )


class NetworkConfig(KindConfig, frozen=True):
    """Fields of all kinds that learn by a network: its form, and how its weights move."""

    hidden_units: HiddenUnits = (128, 64)
    activation: Activation = "relu"
    image_torso: ImageTorso = "nature"
    torso: Torso = ""
    normalize_observations: NormalizeObservations = False
    layer_norm: LayerNorm = False
    residual: Residual = False
    spectral_norm: SpectralNorm = "none"
    torso_width: TorsoWidth = 1
    torso_pooling: TorsoPooling = "none"
    torso_cells: TorsoCells = 6
    learning_rate: LearningRate = 1e-3
    learning_rate_final: FinalLearningRate = 1e-4
    learning_rate_decay_steps: DecaySteps = 0
    learning_rate_schedule: LearningRateSchedule = Schedule()
    optimizer: Optimizer = "adam"
    adam_epsilon: AdamEpsilon = 1e-7
    rmsprop_decay: RmsPropDecay = 0.95
    rmsprop_epsilon: RmsPropEpsilon = 0.01
    weight_decay: WeightDecay = 0.0
    gradient_clip_norm: ClipNorm = 10.0
    gradient_clip_value: ClipValue = 0.0

    def problem(self) -> str:
        """See `KindConfig`."""
        sentence = rising_learning_rate(self.learning_rate, self.learning_rate_final, self.learning_rate_decay_steps)
        return sentence or super().problem()
