"""The configuration of kind dqn."""

from typing import Annotated, ClassVar

from msgspec import Meta

from agents.config_fields import ConservativeWeight, ErrorLoss, HlGauss, LargestReturn, LeastReturn
from agents.configs.value import MunchausenConfig


class DqnConfig(MunchausenConfig, frozen=True, tag_field="kind", tag="dqn"):
    """Deep Q-learning (Mnih et al. 2015) with Double (van Hasselt et al. 2016) and Dueling (Wang et al. 2016)."""

    shapes_network: ClassVar[tuple[str, ...]] = ("hl_gauss", "num_bins", "v_min", "v_max")

    loss: ErrorLoss = "huber"
    hl_gauss: HlGauss = False
    num_bins: Annotated[int, Meta(ge=2, le=1_000, description="Bins of the histogram from v_min to v_max.")] = 51
    v_min: LeastReturn = -10.0
    v_max: LargestReturn = 10.0
    cql_alpha: ConservativeWeight = 0.0

    def cramped_by(self, smallest: float, largest: float) -> str:
        """See `KindOfAgent`: returns beyond the ends of a histogram, by more than the width of a bin."""
        if not self.hl_gauss:
            return ""
        from agents.configs.support import beyond

        return beyond(self.kind, self.v_min, self.v_max, self.num_bins, smallest, largest)

    def remedies(self) -> list[str]:
        """See `KindOfAgent`."""
        return super().remedies() + (["lower agent.v_max"] if self.hl_gauss else [])

    def problem(self) -> str:
        """See `KindConfig`."""
        if not self.hl_gauss:
            named = self.open_fields
            return f'{named[0]}="auto" is of a histogram: set hl_gauss=true' if named else super().problem()
        from agents.configs.support import problem_of

        return problem_of(self.v_min, self.v_max, self.discount) or super().problem()
