"""The contract between an algorithm and the pipeline, and the registry of algorithms."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import msgspec
import tensorflow as tf

from agents import behaviour_cloning, c51, dqn, policy_gradient, q_learning, quantile, r2d2
from agents.configs import (
    AgentConfig,
    BehaviourCloningConfig,
    C51Config,
    DqnConfig,
    IqnConfig,
    PpoConfig,
    QLearningConfig,
    QrDqnConfig,
    R2d2Config,
    RainbowConfig,
    ReinforceConfig,
)
from agents.specs import Specs


class LearningAgent(Protocol):
    """A `tf_agents.agents.TFAgent` as the pipeline uses it."""

    @property
    def acting_model(self) -> tf.keras.Model:
        """Maps a batch of observations to one score an action, float32 [B, A]; the greedy policy takes the largest.

        Where the configuration has `state_units` it maps a list of observations and states float32 [B, state_units] to
        scores and the states that follow, side by side: float32 [B, A + state_units].
        With `noise_units` it maps a list of observations and noise float32 [B, noise_units], 0 for the greedy policy.
        """

    @property
    def noise_units(self) -> int:
        """Width of the noise that the acting model takes; 0 where it takes none."""

    @property
    def learning_rate(self) -> tf.Tensor:
        """float32 []: the step size of the next gradient step."""

    @property
    def learning_rate_scale(self) -> tf.Variable:
        """float32 []: a factor of that step size, 1 at first; part of the agent's state."""

    @property
    def train_step_counter(self) -> tf.Variable:
        """int64 []: gradient steps taken, those included that changed nothing as they were not finite."""

    @property
    def variables(self) -> Any:
        """Every variable that training changes: weights, target, optimizer, counters."""

    def train(self, experience: Any, weights: Any = None) -> Any:
        """One gradient step on a `Trajectory` [B, config.window_length, ...]; its `LossInfo.extra` is a `LossExtra`.

        Of an on-policy kind it may be several updates, on experience of the weights that it starts from. An update
        whose loss or gradient is not finite, on any replica, changes nothing but `train_step_counter`.
        """


class MakeAgent(Protocol):
    """The function of an algorithm that builds its agent."""

    def __call__(self, specs: Specs, config: Any, *, epsilon: float, seed: int) -> LearningAgent:
        """See `agents.build`."""


class Builder(NamedTuple):
    """One algorithm: the type of its configuration and the function that builds it."""

    config: type
    make: MakeAgent

    def __call__(self, specs: Specs, config: Any, *, epsilon: float = 0.1, seed: int = 0) -> LearningAgent:
        """See `agents.build`."""
        return self.make(specs, config, epsilon=epsilon, seed=seed)


BUILDERS: Mapping[str, Builder] = {
    "dqn": Builder(DqnConfig, dqn.build),
    "c51": Builder(C51Config, c51.build),
    "rainbow": Builder(RainbowConfig, c51.build),
    "qr_dqn": Builder(QrDqnConfig, quantile.build_qr_dqn),
    "iqn": Builder(IqnConfig, quantile.build_iqn),
    "r2d2": Builder(R2d2Config, r2d2.build),
    "q_learning": Builder(QLearningConfig, q_learning.build),
    "behaviour_cloning": Builder(BehaviourCloningConfig, behaviour_cloning.build),
    "reinforce": Builder(ReinforceConfig, policy_gradient.build_reinforce),
    "ppo": Builder(PpoConfig, policy_gradient.build_ppo),
}


def build(kind: str, specs: Specs, config: AgentConfig, *, epsilon: float, seed: int) -> LearningAgent:
    """See `agents.build`."""
    if kind not in BUILDERS:
        raise ValueError(f"unknown agent kind {kind!r}; there are {', '.join(BUILDERS)}")
    builder = BUILDERS[kind]
    if not isinstance(config, builder.config):
        raise ValueError(f"agent kind {kind!r} takes {builder.config.__name__}, not {type(config).__name__}")
    try:
        msgspec.convert(msgspec.to_builtins(config), builder.config)  # structs check their ranges only when converted
    except msgspec.ValidationError as error:
        raise ValueError(f"{builder.config.__name__}: {error}") from None
    if reason := config.unsuitable_for(specs):
        raise ValueError(f"agent kind {kind!r}: {reason}")
    return builder(specs, config, epsilon=epsilon, seed=seed)
