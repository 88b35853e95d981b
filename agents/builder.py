"""The interface of an agent as the pipeline uses it, and the registry of agent kinds.

No TensorFlow here: building an agent imports it.
"""

import pkgutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from agents.config_fields import KindConfig, KindOfAgent
from agents.specs import Specs
from agents.struct_types import prepared

if TYPE_CHECKING:
    import tensorflow as tf


class LearningAgent(Protocol):
    """A `tf_agents.agents.TFAgent` as the pipeline uses it."""

    @property
    def acting_model(self) -> "tf.keras.Model":
        """Maps a batch of observations to one score an action, float32 [B, A]; the greedy policy takes the largest.

        Where the configuration has `state_units` it maps a list of observations and states float32 [B, state_units] to
        scores and the states that follow, side by side: float32 [B, A + state_units].
        With `noise_units` it maps a list of observations and noise float32 [B, noise_units], 0 for the greedy policy.
        """

    @property
    def noise_units(self) -> int:
        """Width of the noise that the acting model takes; 0 where it takes none."""

    @property
    def learning_rate(self) -> "tf.Tensor":
        """float32 []: the step size of the next gradient step."""

    @property
    def learning_rate_scale(self) -> "tf.Variable":
        """float32 []: a factor of that step size, 1 at first; part of the agent's state."""

    @property
    def train_step_counter(self) -> "tf.Variable":
        """int64 []: gradient steps taken, those included that changed nothing as they were not finite."""

    @property
    def variables(self) -> Any:
        """Every variable that training changes: weights, target, optimizer, counters."""

    def train(self, experience: Any, weights: Any = None) -> Any:
        """Takes one gradient step on a `Trajectory` [B, config.window_length, ...]; `LossInfo.extra` is a `LossExtra`.

        Of an on-policy kind it may be several updates, on experience of the weights that it starts from. An update
        whose loss or gradient is not finite, on any replica, changes nothing but `train_step_counter`.
        """


class MakeAgent(Protocol):
    """A function that builds an agent from the configuration of its own kind."""

    def __call__(self, specs: Specs, config: Any, *, epsilon: float, seed: int) -> LearningAgent:
        """See `agents.build`."""


class Builder(NamedTuple):
    """One kind of agent: the paths of its configuration's type and of the function that builds it."""

    config_path: str
    """`module:Config`, which is imported when a config names the kind."""
    path: str
    """`module:function`, which is imported when an agent is built."""

    @property
    def config(self) -> type[KindConfig]:
        """The type at `config_path`; imports its module."""
        found: type[KindConfig] = pkgutil.resolve_name(self.config_path)
        return found

    @property
    def make(self) -> MakeAgent:
        """The function at `path`; imports the kind's module."""
        found: MakeAgent = pkgutil.resolve_name(self.path)
        return found

    def __call__(self, specs: Specs, config: KindOfAgent, *, epsilon: float = 0.1, seed: int = 0) -> LearningAgent:
        """Builds an agent without the checks of `build`."""
        return self.make(specs, config, epsilon=epsilon, seed=seed)


BUILDERS: Mapping[str, Builder] = {
    "dqn": Builder("agents.configs.dqn:DqnConfig", "agents.dqn:build"),
    "c51": Builder("agents.configs.c51:C51Config", "agents.c51:build"),
    "rainbow": Builder("agents.configs.c51:RainbowConfig", "agents.c51:build"),
    "qr_dqn": Builder("agents.configs.quantile:QrDqnConfig", "agents.quantile:build_qr_dqn"),
    "iqn": Builder("agents.configs.quantile:IqnConfig", "agents.quantile:build_iqn"),
    "boot_dqn": Builder("agents.configs.boot_dqn:BootDqnConfig", "agents.boot_dqn:build"),
    "iql": Builder("agents.configs.iql:IqlConfig", "agents.iql:build"),
    "r2d2": Builder("agents.configs.r2d2:R2d2Config", "agents.r2d2:build"),
    "q_learning": Builder("agents.configs.q_learning:QLearningConfig", "agents.q_learning:build"),
    "behaviour_cloning": Builder(
        "agents.configs.behaviour_cloning:BehaviourCloningConfig", "agents.behaviour_cloning:build"
    ),
    "reinforce": Builder("agents.configs.policy_gradient:ReinforceConfig", "agents.policy_gradient:build_reinforce"),
    "ppo": Builder("agents.configs.policy_gradient:PpoConfig", "agents.policy_gradient:build_ppo"),
    "pqn": Builder("agents.configs.pqn:PqnConfig", "agents.pqn:build"),
}
"""Every kind of agent by its name, as `agent.kind` of a config gives it."""


def builder_of(kind: str) -> Builder:
    """The paths of a kind: a key of `BUILDERS`, a name that a package registers, or the `module:Config` of your own.

    Raises:
      ValueError: there is no such kind.
    """
    if kind in BUILDERS:
        return BUILDERS[kind]
    from agents import extensions

    config = extensions.kind(kind)
    return Builder(f"{config.__module__}:{config.__qualname__}", config.builder)


def config_type(kind: str) -> type[KindConfig]:
    """The type of a kind's configuration; raises as `builder_of`."""
    return builder_of(kind).config


def build(
    kind: str, specs: Specs, config: KindOfAgent, *, epsilon: float = 0.1, seed: int = 0, open_fields: bool = False
) -> LearningAgent:
    """Builds an agent of a kind, within the distribution strategy in scope.

    Args:
      kind: a key of `BUILDERS`, such as "dqn", or another name that `builder_of` takes.
      specs: the environment's interface; `Specs.from_tf_agents` makes it of a TF-Agents environment's specs.
      config: the kind's configuration, such as `DqnConfig`.
      epsilon: of the agent's own `collect_policy`, a probability; policy gradients draw from the policy instead.
      seed: of the initial weights.
      open_fields: whether the caller decides what the configuration leaves "auto", as the pipeline does.

    Returns:
      An initialized `tf_agents.agents.TFAgent`.

    Raises:
      ValueError: no such kind, the configuration of another one, a value out of its range, or an environment that the
        kind cannot learn.
    """
    wanted = config_type(kind)
    if not isinstance(config, wanted):
        raise ValueError(f"agent kind {kind!r} takes {wanted.__name__}, not {type(config).__name__}")
    try:
        msgspec.convert(msgspec.to_builtins(config), prepared(wanted))  # structs check ranges only when converted
    except msgspec.ValidationError as error:
        raise ValueError(f"{wanted.__name__}: {error}") from None
    if config.open_fields and not open_fields:
        raise ValueError(
            f'agent kind {kind!r}: {config.open_fields[0]}="auto" is decided by pipeline.train, from the first '
            "rewards: give a number here"
        )
    if reason := config.unsuitable_for(specs):
        raise ValueError(f"agent kind {kind!r}: {reason}")
    return builder_of(kind)(specs, config, epsilon=epsilon, seed=seed)
