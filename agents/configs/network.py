"""Fields of the kinds that learn by a network."""

from typing import ClassVar

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


class NetworkConfig(KindConfig, frozen=True):
    """Fields of all kinds that learn by a network: its form, and how its weights move."""

    shapes_network: ClassVar[tuple[str, ...]] = (
        "hidden_units",
        "activation",
        "image_torso",
        "torso",
        "normalize_observations",
        "layer_norm",
        "residual",
        "spectral_norm",
        "torso_width",
        "torso_pooling",
        "torso_cells",
    )

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
