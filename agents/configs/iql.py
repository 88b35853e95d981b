"""The configuration of kind iql."""

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from agents.config_fields import (
    ClipNorm,
    LearningRate,
    TargetUpdatePeriod,
    TargetUpdateTau,
)
from agents.configs.value import ValueConfig
from agents.dimensions import refusal
from agents.specs import Specs


class IqlConfig(ValueConfig, frozen=True, tag_field="kind", tag="iql"):
    """Implicit Q-learning (Kostrikov et al. 2022) with discrete actions: values of what a dataset's best actions do.

    Q-values, state values and the policy have `hidden_units` each.
    """

    shapes_network: ClassVar[tuple[str, ...]] = ("extraction",)

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
    gradient_clip_norm: ClipNorm = 0.0
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

    def unsuitable_for(self, specs: Specs) -> str:
        """See `KindOfAgent`."""
        return refusal(specs)

    def remedies(self) -> list[str]:
        """See `KindOfAgent`."""
        return [*super().remedies(), "lower agent.target_update_tau"]
