"""The configurations of kinds reinforce and ppo."""

from typing import Annotated, ClassVar

from msgspec import Meta

from agents.config_fields import Discount, DiscountSchedule, RewardClip, Schedule
from agents.configs.on_policy import Epochs, Minibatches, OnPolicy, Rollout
from agents.configs.policy import PolicyConfig


class PolicyGradientConfig(OnPolicy, PolicyConfig, frozen=True):
    """Fields of the kinds that learn a policy from its own sequences, which do not overlap and are used once.

    The policy and its baseline have `hidden_units` each. Batch size and samples per insert count sequences.
    """

    rollout: Rollout = 32
    discount: Discount = 0.99
    discount_schedule: DiscountSchedule = Schedule()
    reward_clip: RewardClip = 0.0
    normalize_advantages: Annotated[
        bool, Meta(description="Shift and scale the advantages of a gradient step to a mean of 0 and a deviation of 1.")
    ] = True
    entropy_bonus: Annotated[
        float, Meta(ge=0.0, description="Weight of the policy's entropy, in nats, which is to stay large.")
    ] = 0.0
    value_loss_weight: Annotated[
        float, Meta(ge=0.0, description="Weight of half the squared error of the value baseline.")
    ] = 0.5

    @property
    def largest_discount(self) -> float:
        """See `KindOfAgent`."""
        return max(self.discount_schedule.values(self.discount))


class ReinforceConfig(PolicyGradientConfig, frozen=True, tag_field="kind", tag="reinforce"):
    """REINFORCE (Williams 1992): the policy gradient with returns to the episode's end."""

    shapes_network: ClassVar[tuple[str, ...]] = ("baseline",)

    baseline: Annotated[
        bool,
        Meta(
            description="Learn the states' values: returns are judged against them, and bootstrap where a sequence or "
            "a truncation cuts an episode. Without, only frames whose episode ends within their sequence teach."
        ),
    ] = True


class PpoConfig(PolicyGradientConfig, frozen=True, tag_field="kind", tag="ppo"):
    """Proximal policy optimisation (Schulman et al. 2017): several epochs on a batch, with a clipped ratio."""

    gae_lambda: Annotated[
        float,
        Meta(ge=0.0, le=1.0, description="Lambda of the advantages: 0 trusts the values, 1 the returns."),
    ] = 0.95
    clip_ratio: Annotated[
        float, Meta(gt=0.0, description="Epsilon: how far the ratio of new to old probability is worth moving from 1.")
    ] = 0.2
    epochs: Epochs = 4
    minibatches: Minibatches = 4

    @property
    def batch_parts(self) -> int:
        """See `KindOfAgent`."""
        return self.minibatches
