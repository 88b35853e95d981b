"""Typed configurations of the agents and of exploration. No TensorFlow here: a supervisor reads them too."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A section of an experiment: frozen, typed, without unknown fields."""


class DqnConfig(Config, frozen=True, tag_field="kind", tag="dqn"):
    """Deep Q-learning (Mnih et al. 2015) with Double (van Hasselt et al. 2016) and Dueling (Wang et al. 2016)."""

    hidden_units: Annotated[
        tuple[Annotated[int, Meta(ge=1)], ...],
        Meta(description="Units of each dense layer behind the encoder."),
    ] = (128, 64)
    activation: Annotated[Literal["relu", "tanh", "elu"], Meta(description="Activation of the hidden layers.")] = "relu"
    double: Annotated[bool, Meta(description="Choose the bootstrap action by the online network (Double DQN).")] = True
    dueling: Annotated[bool, Meta(description="Split the head into state value and advantages (Dueling DQN).")] = False
    n_step: Annotated[
        int, Meta(ge=1, le=100, description="Rewards summed before bootstrapping, in environment steps.")
    ] = 1
    discount: Annotated[float, Meta(ge=0.0, le=1.0, description="Gamma, the discount of one environment step.")] = 0.99
    learning_rate: Annotated[float, Meta(gt=0.0, description="Adam's step size at the first gradient step.")] = 1e-3
    learning_rate_final: Annotated[
        float,
        Meta(gt=0.0, description="Adam's step size once learning_rate_decay_steps have passed."),
    ] = 1e-4
    learning_rate_decay_steps: Annotated[
        int,
        Meta(ge=0, description="Gradient steps of linear decay of the step size; 0 keeps it constant."),
    ] = 0
    adam_epsilon: Annotated[
        float, Meta(gt=0.0, description="Adam's epsilon, added to the root of the second moment.")
    ] = 1e-7
    loss: Annotated[
        Literal["huber", "mse"], Meta(description="Loss of one TD error: Huber with delta 1, or half its square.")
    ] = "huber"
    gradient_clip_norm: Annotated[
        float, Meta(ge=0.0, description="Largest global norm of a gradient; 0 does not clip.")
    ] = 10.0
    target_update_period: Annotated[
        int, Meta(ge=1, description="Gradient steps between updates of the target network.")
    ] = 200
    target_update_tau: Annotated[
        float,
        Meta(gt=0.0, le=1.0, description="Share of the online weights in an update; 1 copies them."),
    ] = 1.0
    reward_clip: Annotated[
        float, Meta(ge=0.0, description="Learn from rewards clipped to [-c, c]; 0 does not clip.")
    ] = 0.0

    @property
    def kind(self) -> str:
        """The kind's name, a key of `agents.BUILDERS`."""
        return str(self.__struct_config__.tag)

    @property
    def window_length(self) -> int:
        """Frames of one replay item: the transition's start and n_step successors."""
        return self.n_step + 1


AgentConfig = DqnConfig
"""The tagged union of every kind's configuration: `kind` in a config file chooses the member."""


class ExplorationConfig(Config, frozen=True):
    """How collectors choose actions from Q-values."""

    strategy: Annotated[
        Literal["epsilon_greedy", "boltzmann"],
        Meta(description="Uniform actions with probability epsilon, or actions drawn by softmax of Q."),
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
    ladder_alpha: Annotated[
        float,
        Meta(
            ge=0.0,
            description="Exponent spread over the N collectors (Ape-X, Horgan et al. 2018, 4.1): collector i "
            "explores with epsilon^(1 + i/(N-1) * alpha); 0 gives all the same epsilon.",
        ),
    ] = 0.0
    temperature: Annotated[float, Meta(gt=0.0, description="Boltzmann temperature, in units of Q.")] = 1.0
