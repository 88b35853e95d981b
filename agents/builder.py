"""The contract between an algorithm and the pipeline, and the registry of algorithms."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import msgspec
import tensorflow as tf

from agents import dqn
from agents.configs import AgentConfig, DqnConfig
from agents.specs import Specs


class LearningAgent(Protocol):
    """A `tf_agents.agents.TFAgent` as the pipeline uses it."""

    @property
    def acting_model(self) -> tf.keras.Model:
        """Maps a batch of observations to one score an action, float32 [B, A]; the greedy policy takes the largest."""

    @property
    def learning_rate(self) -> tf.Tensor:
        """float32 []: the step size of the next gradient step."""

    @property
    def train_step_counter(self) -> tf.Variable:
        """int64 []: gradient steps taken."""

    @property
    def variables(self) -> Any:
        """Every variable that training changes: weights, target, optimizer, counters."""

    def train(self, experience: Any, weights: Any = None) -> Any:
        """One gradient step on a `Trajectory` [B, config.window_length, ...]; its `LossInfo.extra` is a `LossExtra`."""


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
    return builder(specs, config, epsilon=epsilon, seed=seed)
