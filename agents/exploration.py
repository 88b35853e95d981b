"""How collectors explore: a typed configuration, and pure NumPy functions over the Q-values of a batch of lanes."""

from typing import Annotated, Any, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from agents.config_fields import Config

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


class ExplorationConfig(Config, frozen=True):
    """How collectors choose actions from Q-values, or from the logits of a policy."""

    strategy: Annotated[
        Literal["epsilon_greedy", "boltzmann", "greedy"],
        Meta(
            description="Uniform actions with probability epsilon, actions drawn by softmax of Q (of logits: from the "
            "policy), or the best action always, which explores where the network is noisy."
        ),
    ] = "epsilon_greedy"
    epsilon_initial: Annotated[
        float, Meta(ge=0.0, le=1.0, description="Probability of a uniform action at the start.")
    ] = 1.0
    epsilon_final: Annotated[
        float, Meta(ge=0.0, le=1.0, description="Probability of a uniform action after the decay.")
    ] = 0.05
    epsilon_decay_steps: Annotated[
        int, Meta(ge=0, description="Environment steps, over all collectors, of the linear decay.")
    ] = 10_000
    epsilon_schedule: Annotated[
        str,
        Meta(
            description="`module:function` of your own, or a registered one, in the place of the linear decay: maps "
            "this section and environment steps to the probability. Empty takes ours."
        ),
    ] = ""
    ladder_alpha: Annotated[
        float,
        Meta(
            ge=0.0,
            description="Exponent spread over the N collectors (Ape-X, Horgan et al. 2018, 4.1): collector i "
            "explores with epsilon^(1 + i/(N-1) * alpha); 0 gives all the same epsilon.",
        ),
    ] = 0.0
    ladder_by: Annotated[
        Literal["collector", "lane", "episode"],
        Meta(description="Whose epsilons ladder_alpha spreads; an episode draws its i/(N-1) uniformly from [0, 1]."),
    ] = "collector"
    temperature: Annotated[float, Meta(gt=0.0, description="Boltzmann temperature, in units of Q.")] = 1.0
    count_bonus: Annotated[
        float,
        Meta(
            ge=0.0,
            description="Reward added for a state's first visit, for its n-th this over the root of n; returns are "
            "reported without it; 0 pays none.",
        ),
    ] = 0.0
    count_cells: Annotated[
        float, Meta(gt=0.0, description="Cells that a standard deviation of a float feature is cut into for counting.")
    ] = 4.0
    prediction_bonus: Annotated[
        float,
        Meta(ge=0.0, description="The same for each deviation that a predictor errs by (RND, Burda et al. 2018)."),
    ] = 0.0

    @property
    def paid_by(self) -> str:
        """The field that pays a bonus for novelty; empty where none does."""
        return next((f"exploration.{name}" for name in ("count_bonus", "prediction_bonus") if getattr(self, name)), "")


def epsilon(config: ExplorationConfig, environment_steps: int, index: int = 0, collectors: int = 1) -> float:
    """Probability of a uniform action of collector `index` of `collectors` after that many global environment steps.

    Linear from `epsilon_initial` to `epsilon_final`, then raised to 1 + i/(N-1) * alpha (Horgan et al. 2018, 4.1).
    """
    decayed = min(1.0, environment_steps / max(1, config.epsilon_decay_steps))
    base = config.epsilon_initial + decayed * (config.epsilon_final - config.epsilon_initial)
    if config.epsilon_schedule:
        from agents import extensions

        base = extensions.epsilon(config, environment_steps)
    rung = index / (collectors - 1) if collectors > 1 else 0.0
    return float(base ** (1.0 + rung * config.ladder_alpha))


def greedy(q_values: Floats, mask: Mask | None = None, sizes: tuple[int, ...] = ()) -> Ints:
    """Chooses the allowed action of largest Q-value in each lane, the first of equals.

    Args:
      q_values: float32 [lanes, actions].
      mask: bool [lanes, actions], true where an action is allowed; None allows all.
      sizes: of an action's D dimensions, where it has several: each is chosen by itself.

    Returns:
      int64 [lanes], or [lanes, D].
    """
    if sizes:
        from agents.dimensions import by_dimension

        return by_dimension(greedy, sizes, q_values, mask)
    if mask is not None:
        q_values = np.where(mask, q_values, -np.inf)
    actions: Ints = q_values.argmax(axis=1)
    return actions


def uniform(shape: tuple[int, int], random: np.random.Generator, mask: Mask | None = None) -> Ints:
    """Draws an allowed action uniformly in each of `shape[0]` lanes: int64 [lanes]."""
    if mask is None:
        return random.integers(0, shape[1], shape[0])
    # The largest of independent uniform keys is each allowed action's with the same probability.
    actions: Ints = np.where(mask, random.random(shape), -1.0).argmax(axis=1)
    return actions


def epsilon_greedy(
    q_values: Floats, epsilon: Any, random: np.random.Generator, mask: Mask | None = None, sizes: tuple[int, ...] = ()
) -> Ints:
    """Chooses as `greedy` does, but with probability `epsilon` (or [lanes]) any allowed; each dimension by itself."""
    if sizes:
        from agents.dimensions import epsilon_greedy_by_dimension

        return epsilon_greedy_by_dimension(sizes, q_values, epsilon, random, mask)
    lanes = q_values.shape[0]
    actions = greedy(q_values, mask)
    explores = random.random(lanes) < epsilon
    if np.count_nonzero(explores):
        actions = np.where(explores, uniform((lanes, q_values.shape[1]), random, mask), actions)
    return actions


def explore(
    config: ExplorationConfig,
    q_values: Floats,
    epsilon: Any,
    random: np.random.Generator,
    mask: Mask | None = None,
    sizes: tuple[int, ...] = (),
) -> Ints:
    """Chooses actions by the configured strategy, from Q-values and the random stream alone; see `greedy`."""
    if config.strategy == "greedy":
        return greedy(q_values, mask, sizes)
    if config.strategy == "boltzmann":
        from agents.boltzmann import boltzmann

        return boltzmann(q_values, config.temperature, random, mask, sizes)
    return epsilon_greedy(q_values, epsilon, random, mask, sizes)
