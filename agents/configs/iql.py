"""The configuration of kind iql."""

from typing import Annotated, Literal

from msgspec import Meta

from agents.config_fields import (
    Activation,
    AdamEpsilon,
    ClipNorm,
    ClipValue,
    DecaySteps,
    FinalLearningRate,
    HiddenUnits,
    ImageTorso,
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
    TargetUpdatePeriod,
    TargetUpdateTau,
    Torso,
    TorsoCells,
    TorsoPooling,
    TorsoWidth,
    WeightDecay,
    rising_learning_rate,
)
from agents.configs.value import WindowConfig


class IqlConfig(WindowConfig, frozen=True, tag_field="kind", tag="iql"):
    """Implicit Q-learning (Kostrikov et al. 2022) with discrete actions: values of what a dataset's best actions do.

    Q-values, state values and the policy have `hidden_units` each.
    """

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
    expectile: Annotated[
        float,
        Meta(
            gt=0.0,
            lt=1.0,
            description="Tau, of the Q-values of the dataset's actions that a state's value is: 0.5 is their mean, 1 "
            "their maximum.",
        ),
    ] = 0.8
    extraction: Annotated[
        Literal["weighted", "greedy"],
        Meta(
            description="How to act: by a policy that imitates the dataset's actions, each weighted by its exponential "
            "advantage, or by the largest Q-value."
        ),
    ] = "weighted"
    inverse_temperature: Annotated[
        float,
        Meta(ge=0.0, description="Beta, of the weights exp(beta * advantage), at most 100; 0 imitates alike."),
    ] = 3.0
    learning_rate: LearningRate = 3e-4
    learning_rate_final: FinalLearningRate = 1e-4
    learning_rate_decay_steps: DecaySteps = 0
    learning_rate_schedule: LearningRateSchedule = Schedule()
    optimizer: Optimizer = "adam"
    adam_epsilon: AdamEpsilon = 1e-7
    rmsprop_decay: RmsPropDecay = 0.95
    rmsprop_epsilon: RmsPropEpsilon = 0.01
    weight_decay: WeightDecay = 0.0
    gradient_clip_norm: ClipNorm = 0.0
    gradient_clip_value: ClipValue = 0.0
    target_update_period: TargetUpdatePeriod = 0
    target_update_tau: TargetUpdateTau = 0.005

    @property
    def offline_only(self) -> bool:
        """See `KindOfAgent`: where nothing is tried, what the dataset lacks must not be believed."""
        return True

    @property
    def learns_policy(self) -> bool:
        """See `KindOfAgent`."""
        return self.extraction == "weighted"

    def remedies(self) -> list[str]:
        """See `KindOfAgent`."""
        return [*super().remedies(), "lower agent.target_update_tau"]

    def problem(self) -> str:
        """See `KindConfig`."""
        sentence = rising_learning_rate(self.learning_rate, self.learning_rate_final, self.learning_rate_decay_steps)
        return sentence or super().problem()
