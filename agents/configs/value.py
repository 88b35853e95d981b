"""Fields of the kinds that learn values of returns."""

import math
from typing import Annotated, ClassVar

from msgspec import Meta

from agents.config_fields import (
    Discount,
    DiscountSchedule,
    Dueling,
    Noisy,
    NStep,
    NStepSchedule,
    RewardClip,
    Schedule,
    TargetUpdatePeriod,
    TargetUpdateTau,
)
from agents.configs.network import NetworkConfig
from agents.specs import Specs


class WindowConfig:
    """What kinds have in common that learn values from windows of n + 1 frames."""

    __slots__ = ()

    n_step: int
    n_step_schedule: Schedule
    discount: float
    discount_schedule: Schedule
    reward_clip: float

    @property
    def largest_n_step(self) -> int:
        """The largest n of the run: windows hold as many steps."""
        return int(max(self.n_step_schedule.values(self.n_step)))

    @property
    def largest_discount(self) -> float:
        """See `KindOfAgent`."""
        return max(self.discount_schedule.values(self.discount))

    @property
    def targets_move(self) -> bool:
        """See `KindOfAgent`."""
        return bool(self.n_step_schedule.points or self.discount_schedule.points)

    @property
    def window_length(self) -> int:
        """Frames of one window: the n-step transition's first frame and its successors."""
        return self.largest_n_step + 1


class ValueConfig(WindowConfig, NetworkConfig, frozen=True):
    """Fields of the kinds that learn values of such windows by a network."""

    n_step: NStep = 1
    n_step_schedule: NStepSchedule = Schedule()
    discount: Discount = 0.99
    discount_schedule: DiscountSchedule = Schedule()
    reward_clip: RewardClip = 0.0


class DeepConfig(ValueConfig, frozen=True):
    """Fields of all kinds that learn values by a network and a target network."""

    shapes_network: ClassVar[tuple[str, ...]] = ("dueling", "noisy")

    double: Annotated[bool, Meta(description="Choose the bootstrap action by the online network (Double DQN).")] = True
    dueling: Dueling = False
    noisy: Noisy = False
    noisy_sigma: Annotated[
        float, Meta(gt=0.0, description="Initial scale of the noise, before division by the root of a layer's inputs.")
    ] = 0.5
    target_update_period: TargetUpdatePeriod = 0
    target_update_tau: TargetUpdateTau = 1.0
    redo_period: Annotated[int, Meta(ge=0, description="Gradient steps between renewals of dormant units; 0: no.")] = 0
    redo_threshold: Annotated[float, Meta(ge=0.0, description="Activity of a dormant one, of its layer's mean.")] = 0.1
    reset_period: Annotated[int, Meta(ge=0, description="Gradient steps between resets of dense layers; 0: no.")] = 0
    reset_keep: Annotated[float, Meta(ge=0.0, lt=1.0, description="Share of the weights that a reset keeps.")] = 0.0

    def remedies(self) -> list[str]:
        """See `KindOfAgent`."""
        further = ["raise agent.target_update_period", *([] if self.double else ["set agent.double=true"])]
        return super().remedies() + further

    def problem(self) -> str:
        """See `KindConfig`."""
        if self.noisy and (self.redo_period or self.reset_period):
            return "noisy layers are not renewed: set noisy=false, or redo_period=0 and reset_period=0"
        return super().problem()


class MunchausenConfig(DeepConfig, frozen=True):
    """Fields of the kinds whose target may be Munchausen's."""

    munchausen: Annotated[
        bool,
        Meta(
            description="Add the scaled log-policy to the reward and bootstrap softly (Vieillard et al. 2020); needs "
            "double=false, as there is no maximum to choose."
        ),
    ] = False
    munchausen_scale: Annotated[float, Meta(ge=0.0, le=1.0, description="Alpha, the log-policy's share.")] = 0.9
    munchausen_temperature: Annotated[float, Meta(gt=0.0, description="Tau, the softmax policy's, in units of Q.")] = (
        0.03
    )
    munchausen_temperature_schedule: Annotated[
        Schedule, Meta(description="Of munchausen_temperature, by gradient steps.")
    ] = Schedule()
    munchausen_floor: Annotated[
        float, Meta(le=0.0, description="l0, the least that tau * log pi is taken to be.")
    ] = -1.0
    margin: Annotated[
        float,
        Meta(
            ge=0.0, description="By how much Q of a demonstrated action is to exceed others (DQfD: 0.8); 0 has no loss."
        ),
    ] = 0.0
    margin_weight: Annotated[float, Meta(gt=0.0, description="Of that loss: DQfD's lambda_2.")] = 1.0
    one_step_weight: Annotated[
        float, Meta(ge=0.0, description="Of a loss of one step beside that of n_step, such as DQfD's: 1; 0 has none.")
    ] = 0.0
    l2_weight: Annotated[
        float, Meta(ge=0.0, description="Of the sum of squares of all weights, in the loss: DQfD's lambda_3.")
    ] = 0.0

    @property
    def demonstrates(self) -> bool:
        """Whether the loss has parts of DQfD's."""
        return bool(self.margin or self.one_step_weight or self.l2_weight)

    def unsuitable_for(self, specs: Specs) -> str:
        """See `KindOfAgent`."""
        is_unsuitable = self.demonstrates and specs.action_sizes
        return "margin, one_step_weight and l2_weight are of one dimension: set them to 0" if is_unsuitable else ""

    def soft_reward(self, num_actions: int) -> float:
        """See `KindOfAgent`: the policy's entropy, of which tau log A is the most."""
        largest = max(self.munchausen_temperature_schedule.values(self.munchausen_temperature))
        return largest * math.log(num_actions) if self.munchausen else 0.0

    def remedies(self) -> list[str]:
        """See `KindOfAgent`; soft values have no maximum to choose, so that double would change nothing."""
        return [words for words in super().remedies() if not (self.munchausen and "double" in words)]

    def problem(self) -> str:
        """See `KindConfig`."""
        if self.munchausen and self.double:
            return "munchausen=true bootstraps from a softmax: set double=false, there is no maximum to choose"
        return super().problem()
