"""The configuration of kind pqn."""

import math
from typing import Annotated, Literal

from msgspec import Meta

from agents.config_fields import (
    AdamEpsilon,
    Discount,
    DiscountSchedule,
    ErrorLoss,
    HiddenUnits,
    LayerNorm,
    LearningRate,
    Optimizer,
    RewardClip,
    Schedule,
)
from agents.configs.network import NetworkConfig
from agents.configs.on_policy import Epochs, Minibatches, OnPolicy, Rollout


class PqnConfig(OnPolicy, NetworkConfig, frozen=True, tag_field="kind", tag="pqn"):
    """Parallelised Q-network (PQN, Gallici et al. 2024): Q(lambda) without replay and without a target network.

    Layer normalisation keeps it stable. Batch size and samples per insert count sequences.
    """

    hidden_units: HiddenUnits = (128, 128)
    layer_norm: LayerNorm = True
    learning_rate: LearningRate = 5e-4
    optimizer: Optimizer = "radam"
    adam_epsilon: AdamEpsilon = 1e-8
    rollout: Rollout = 32
    discount: Discount = 0.99
    discount_schedule: DiscountSchedule = Schedule()
    reward_clip: RewardClip = 0.0
    q_lambda: Annotated[
        float,
        Meta(
            ge=0.0,
            le=1.0,
            description="Lambda of the returns to learn: 0 bootstraps after one step, 1 at the sequence's end.",
        ),
    ] = 0.65
    loss: ErrorLoss = "mse"
    collect_ahead: Annotated[
        bool,
        Meta(
            description="Collect a batch while the learner learns from the one before, by weights one gradient step "
            "old (of C collectors at most 2 C - 1); false takes turns, as launcher inline does."
        ),
    ] = True
    epochs: Epochs = 2
    minibatches: Minibatches = 4

    @property
    def largest_discount(self) -> float:
        """See `KindOfAgent`."""
        return max(self.discount_schedule.values(self.discount))

    @property
    def priority_unit(self) -> Literal["return", "rescaled return", "nat", ""]:
        """See `KindOfAgent`: there are none."""
        return ""

    @property
    def batches_ahead(self) -> int:
        """See `KindOfAgent`: Q(lambda) learns from weights of a moment ago as well."""
        return int(self.collect_ahead)

    @property
    def batch_parts(self) -> int:
        """See `KindOfAgent`: minibatches are of frames, of which a sequence has `rollout`."""
        return self.minibatches // math.gcd(self.minibatches, self.rollout)
