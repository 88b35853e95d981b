"""The configurations of kinds qr_dqn and iqn."""

from typing import Annotated, ClassVar

from msgspec import Meta

from agents.config_fields import ConservativeWeight
from agents.configs.value import MunchausenConfig


class QuantileConfig(MunchausenConfig, frozen=True):
    """Fields of the kinds that learn quantiles of the return."""

    kappa: Annotated[
        float, Meta(gt=0.0, description="Where the quantile Huber loss turns from quadratic to linear.")
    ] = 1.0
    cql_alpha: ConservativeWeight = 0.0


class QrDqnConfig(QuantileConfig, frozen=True, tag_field="kind", tag="qr_dqn"):
    """Quantile-regression DQN (Dabney et al. 2018a): the return's quantiles at fixed fractions."""

    shapes_network: ClassVar[tuple[str, ...]] = ("num_quantiles",)

    num_quantiles: Annotated[int, Meta(ge=1, le=1_000, description="Quantiles, at the midpoints of equal parts.")] = 50


class IqnConfig(QuantileConfig, frozen=True, tag_field="kind", tag="iqn"):
    """Implicit quantile networks (Dabney et al. 2018b): the return's quantile at any fraction that is asked for."""

    shapes_network: ClassVar[tuple[str, ...]] = ("embedding_cosines", "layers_per_fraction")

    quantile_samples: Annotated[int, Meta(ge=1, description="N, fractions drawn for the values learned.")] = 32
    target_quantile_samples: Annotated[
        int, Meta(ge=1, description="N', fractions drawn for the values bootstrapped from.")
    ] = 32
    acting_quantiles: Annotated[int, Meta(ge=1, description="K, fixed fractions whose mean acts.")] = 32
    embedding_cosines: Annotated[int, Meta(ge=1, description="n, cosines that a fraction is embedded by.")] = 64
    layers_per_fraction: Annotated[
        int,
        Meta(
            ge=0,
            description="Hidden layers, the last of hidden_units, that run once for each fraction of an observation, "
            "behind the product of features and embedding; the others run once an observation. The paper has 1, "
            "if there is one; 0 takes a quarter of its time where layers are wide.",
        ),
    ] = 1

    def problem(self) -> str:
        """See `KindConfig`."""
        layers = len(self.hidden_units)
        if self.layers_per_fraction > max(1, layers):  # the default fits a network without hidden layers, too
            return f"layers_per_fraction={self.layers_per_fraction} needs as many hidden_units, which are {layers}"
        return super().problem()
