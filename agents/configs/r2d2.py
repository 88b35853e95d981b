"""The configuration of kind r2d2."""

import math
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from agents.config_fields import ErrorLoss
from agents.configs.value import DeepConfig


class R2d2Config(DeepConfig, frozen=True, tag_field="kind", tag="r2d2"):
    """Recurrent replay (R2D2, Kapturowski et al. 2019), and its plain form (DRQN, Hausknecht and Stone 2015).

    Batch size, replay sizes and samples per insert count sequences.
    """

    shapes_network: ClassVar[tuple[str, ...]] = ("lstm_units",)
    paper = "Kapturowski et al. 2019"
    paper_settings = {
        "replay": {
            "prioritized": True,
            "priority_exponent": 0.9,
            "importance_exponent": 0.6,
            "importance_exponent_steps": 0,
        }
    }

    lstm_units: Annotated[int, Meta(ge=1, description="Units of the LSTM behind the hidden layers.")] = 64
    burn_in: Annotated[
        int, Meta(ge=0, description="Frames that only warm the recurrent state up, before those learned from.")
    ] = 8
    sequence: Annotated[int, Meta(ge=1, description="Frames of a sequence that are learned from.")] = 16
    period: Annotated[
        int, Meta(ge=1, description="Steps between the starts of sequences; below `sequence` they overlap.")
    ] = 8
    stored_state: Annotated[
        bool, Meta(description="Start from the state that acted, which frames store; false starts from zeros (DRQN).")
    ] = True
    value_rescaling: Annotated[
        bool, Meta(description="Learn h(Q) = sign(Q)(sqrt(|Q| + 1) - 1) + 0.001 Q (Pohlen et al. 2018).")
    ] = True
    priority_maximum_share: Annotated[
        float, Meta(ge=0.0, le=1.0, description="Eta: a sequence's priority is eta max + (1 - eta) mean of its errors.")
    ] = 0.9
    loss: ErrorLoss = "huber"

    def problem(self) -> str:
        """See `KindConfig`."""
        return "a recurrent network has no noisy form: set noisy=false" if self.noisy else super().problem()

    @property
    def priority_unit(self) -> Literal["return", "rescaled return", "nat", ""]:
        """See `KindOfAgent`: TD errors of rescaled values, of a sequence (Kapturowski et al. 2019, equation 1)."""
        return "rescaled return"

    def in_units(self, value: float) -> float:
        """See `KindOfAgent`: rescaled, as `agents.rescaling.rescale` does."""
        if not self.value_rescaling:
            return value
        return math.copysign(math.sqrt(abs(value) + 1.0) - 1.0, value) + 1e-3 * value

    @property
    def window_length(self) -> int:
        """Frames of a sequence: burn-in, those learned from, and n more to bootstrap from."""
        return self.burn_in + self.sequence + self.largest_n_step

    @property
    def stride(self) -> int:
        """See `KindOfAgent`."""
        return self.period

    @property
    def lead(self) -> int:
        """See `KindOfAgent`: the burn-in."""
        return self.burn_in

    @property
    def learned_frames(self) -> slice:
        """See `KindOfAgent`: those between the burn-in and the last n."""
        return slice(self.burn_in, self.burn_in + self.sequence)

    @property
    def state_units(self) -> int:
        """See `KindOfAgent`: the LSTM's output and cell."""
        return 2 * self.lstm_units
