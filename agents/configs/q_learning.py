"""The configuration of kind q_learning."""

from typing import Annotated

from msgspec import Meta

from agents.config_fields import (
    Discount,
    DiscountSchedule,
    KindConfig,
    LearningRateSchedule,
    NStep,
    NStepSchedule,
    RewardClip,
    Schedule,
)
from agents.configs.value import WindowConfig
from agents.dimensions import refusal
from agents.specs import CATEGORIES, Specs


class QLearningConfig(WindowConfig, KindConfig, frozen=True, tag_field="kind", tag="q_learning"):
    """Tabular Q-learning (Watkins 1989): one weight a state and action. Observations must be categories."""

    n_step: NStep = 1
    n_step_schedule: NStepSchedule = Schedule()
    discount: Discount = 0.99
    discount_schedule: DiscountSchedule = Schedule()
    reward_clip: RewardClip = 0.0
    learning_rate: Annotated[
        float, Meta(gt=0.0, le=1.0, description="Share of the TD error that one n-step transition moves its entry by.")
    ] = 0.1
    learning_rate_final: Annotated[
        float, Meta(gt=0.0, le=1.0, description="The same once learning_rate_decay_steps have passed.")
    ] = 0.01
    learning_rate_decay_steps: Annotated[
        int, Meta(ge=0, description="Gradient steps of linear decay of the share; 0 keeps it constant.")
    ] = 0
    learning_rate_schedule: LearningRateSchedule = Schedule()
    initial_value: Annotated[float, Meta(description="Of every entry; above all returns it explores.")] = 0.0

    def unsuitable_for(self, specs: Specs) -> str:
        """See `KindOfAgent`."""
        wrong = [name or "the observation" for name, spec in specs.leaves().items() if spec.dtype not in CATEGORIES]
        return (
            f"a table needs Discrete or MultiDiscrete observations, and {wrong[0]} is none" if wrong else refusal(specs)
        )
