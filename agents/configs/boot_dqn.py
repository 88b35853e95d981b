"""The configuration of kind boot_dqn."""

from typing import Annotated, ClassVar, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from agents.config_fields import ErrorLoss
from agents.configs.value import DeepConfig
from agents.dimensions import refusal
from agents.specs import Specs


class BootDqnConfig(DeepConfig, frozen=True, tag_field="kind", tag="boot_dqn"):
    """Bootstrapped DQN (Osband et al. 2016) with randomised priors (Osband et al. 2018)."""

    shapes_network: ClassVar[tuple[str, ...]] = ("heads", "shared_layers", "prior_scale")
    paper = "Osband et al. 2016 and 2018"
    paper_settings = {"exploration": {"strategy": "greedy"}}

    heads: Annotated[
        int,
        Meta(ge=1, le=1_000, description="Q-functions of the ensemble, of which one acts in each episode of a lane."),
    ] = 20
    shared_layers: Annotated[
        int,
        Meta(
            ge=0,
            description="Hidden layers, the first of hidden_units, that all heads share; the others each has for "
            "itself. The convolutions in front of images are always shared.",
        ),
    ] = 0
    prior_scale: Annotated[
        float,
        Meta(ge=0.0, description="Factor of the fixed random network that each head's Q-values contain; 0: none."),
    ] = 3.0
    bootstrap_probability: Annotated[
        float, Meta(gt=0.0, le=1.0, description="Of each head to learn from a transition; drawn once for all times.")
    ] = 0.5
    ensemble_policy: Annotated[
        Literal["mean", "majority"],
        Meta(description="What evaluations and exports act by: the heads' mean Q-values, or their votes."),
    ] = "mean"
    loss: ErrorLoss = "huber"

    def unsuitable_for(self, specs: Specs) -> str:
        """See `KindOfAgent`."""
        return refusal(specs)

    def problem(self) -> str:
        """See `KindConfig`."""
        if self.shared_layers > len(self.hidden_units):
            return f"shared_layers={self.shared_layers} needs as many hidden_units, which are {len(self.hidden_units)}"
        if self.noisy:
            return "an ensemble has no noisy form, its heads explore: set noisy=false"
        if self.redo_period or self.reset_period:
            return "an ensemble's layers are not renewed: set redo_period=0 and reset_period=0"
        if self.spectral_norm not in ("none", "residual") or (self.spectral_norm == "residual" and self.residual):
            return (
                f"spectral_norm={self.spectral_norm!r} is of hidden layers that heads have for themselves: leave it out"
            )
        return super().problem()

    @property
    def state_units(self) -> int:
        """See `KindOfAgent`: 1 + the head that acts, 0 for all, and the number by which heads learn from the frame."""
        return 2

    @property
    def remembers(self) -> bool:
        """See `KindOfAgent`."""
        return False

    def begin_states(self, state: NDArray[np.float32], begins: NDArray[np.bool_], random: np.random.Generator) -> None:
        """See `KindOfAgent`: draws a head where an episode begins (Osband et al. 2016, algorithm 1), a number anywhere.

        The number lies in (0, 1]; 0 says that no collector drew it.
        """
        state[begins, 0] = 1 + random.integers(0, self.heads, np.count_nonzero(begins))
        state[:, 1] = 1.0 - random.random(len(state), np.float32)
