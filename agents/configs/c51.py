"""The configurations of kinds c51 and rainbow."""

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from agents.config_fields import Dueling, LargestReturn, LeastReturn, Noisy, NStep
from agents.configs.support import beyond, problem_of
from agents.configs.value import MunchausenConfig


class C51Config(MunchausenConfig, frozen=True, tag_field="kind", tag="c51"):
    """Categorical DQN (Bellemare et al. 2017): a distribution of the return over fixed atoms."""

    shapes_network: ClassVar[tuple[str, ...]] = ("num_atoms", "v_min", "v_max")

    num_atoms: Annotated[int, Meta(ge=2, le=1_000, description="Atoms of the distribution.")] = 51
    v_min: LeastReturn = -10.0
    v_max: LargestReturn = 10.0

    def problem(self) -> str:
        """See `KindConfig`."""
        return problem_of(self.v_min, self.v_max, self.discount) or super().problem()

    def cramped_by(self, smallest: float, largest: float) -> str:
        """See `KindOfAgent`: returns beyond the last atoms, by more than the distance of two."""
        return beyond(self.kind, self.v_min, self.v_max, self.num_atoms - 1, smallest, largest)

    def remedies(self) -> list[str]:
        """See `KindOfAgent`."""
        return [*super().remedies(), "lower agent.v_max"]

    @property
    def priority_unit(self) -> Literal["return", "rescaled return", "nat", ""]:
        """See `KindOfAgent`: the divergence of the predicted distribution from its target (Hessel et al. 2018)."""
        return "nat"


class RainbowConfig(C51Config, frozen=True, tag_field="kind", tag="rainbow"):
    """Rainbow (Hessel et al. 2018): C51 with every switch on, priorities, and the network's noise to explore by."""

    paper = "Hessel et al. 2018"
    paper_settings = {
        "replay": {"prioritized": True, "priority_exponent": 0.5},
        "exploration": {"strategy": "greedy"},
    }

    dueling: Dueling = True
    noisy: Noisy = True
    n_step: NStep = 3
