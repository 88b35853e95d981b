"""A small problem for every kind of the registry: specs, a configuration with every switch that matters, experience."""

from typing import Any

import msgspec
import numpy as np
import tensorflow as tf
from tf_agents.trajectories import Trajectory

from agents import BUILDERS, AgentConfig, ArraySpec, Specs

VECTOR = Specs(ArraySpec((4,), "float32"), 3, masked=True)
DIMENSIONS = VECTOR._replace(num_actions=5, action_sizes=(2, 3))
"""The same with actions of two dimensions."""
CATEGORIES = Specs(ArraySpec((), "int32", (6,)), 3, masked=True)
SMALL = {
    "n_step": 3,
    "hidden_units": (16,),
    "dueling": True,
    "target_update_period": 6,
    "target_update_tau": 0.5,
    "learning_rate": 0.01,
    "learning_rate_decay_steps": 15,
    "gradient_clip_norm": 0.02,
    "lstm_units": 8,
    "burn_in": 2,
    "sequence": 4,
    "period": 2,
    "rollout": 4,
    "entropy_bonus": 0.01,
    "epochs": 2,
    "minibatches": 2,
    "heads": 3,
}
RECTIFIED = {"learning_rate": 0.2}
"""Of pqn: RAdam's first steps are small ones."""


def scores(agent: Any, observation: Any) -> Any:
    """The acting model's Q-values or logits, without noise or memory."""
    batch, config = tf.nest.flatten(observation)[0].shape[0], agent.config
    if further := agent.noise_units + config.state_units:
        both = agent.acting_model([observation, tf.zeros((batch, further))])
        return both[:, : both.shape[1] - config.state_units]
    return agent.acting_model(observation)


def specs_of(kind: str) -> Specs:
    """A masked problem that the kind can learn."""
    return CATEGORIES if kind == "q_learning" else VECTOR


def config_of(kind: str) -> AgentConfig:
    """Three-step returns; for the deep kinds a small network, soft target updates, decay, clipping, short sequences."""
    return changed(BUILDERS[kind].config(), SMALL | (RECTIFIED if kind == "pqn" else {}))


def changed(config: Any, values: dict[str, Any]) -> Any:
    """A configuration with other values of those fields that it has."""
    known = {field.name for field in msgspec.structs.fields(type(config))}
    return msgspec.structs.replace(config, **{name: value for name, value in values.items() if name in known})


VARIANTS: dict[str, AgentConfig] = {
    **{kind: config_of(kind) for kind in BUILDERS},
    **{
        f"{kind} munchausen": msgspec.structs.replace(config_of(kind), double=False, munchausen=True)
        for kind in ("dqn", "c51", "qr_dqn", "iqn")
    },
    "dqn hl_gauss": msgspec.structs.replace(config_of("dqn"), hl_gauss=True, num_bins=7),
    "dqn noisy": msgspec.structs.replace(config_of("dqn"), noisy=True, dueling=False),
    "dqn conservative": msgspec.structs.replace(config_of("dqn"), cql_alpha=0.5),
    "qr_dqn conservative": msgspec.structs.replace(config_of("qr_dqn"), cql_alpha=0.5),
    **{
        f"{kind} normalized": changed(config_of(kind), {"normalize_observations": True})
        for kind in ("dqn", "iqn", "r2d2", "ppo", "pqn")
    },
    "boot_dqn shared": changed(config_of("boot_dqn"), {"shared_layers": 1, "ensemble_policy": "majority"}),
    "reinforce without a baseline": msgspec.structs.replace(config_of("reinforce"), baseline=False),
}
"""Configurations by name: every kind, and switches that change a loss."""
FEW = {name: VARIANTS[name] for name in (*BUILDERS, "dqn noisy", "dqn normalized")}
"""Of these, what is enough where each costs much: every kind, and few of its switches."""


def observations(specs: Specs, shape: tuple[int, ...], random: np.random.Generator) -> Any:
    """Random observations [*shape, ...] of `specs_of`, each with a mask that allows an action."""
    mask, begin = random.random((*shape, specs.num_actions)) < 0.6, 0
    for size in specs.action_sizes or (specs.num_actions,):
        mask[..., begin + 1] |= ~mask[..., begin : begin + size].any(axis=-1)
        begin += size
    if specs is CATEGORIES:
        return tf.constant(random.integers(0, 7, shape), tf.int32), tf.constant(mask)
    return tf.constant(random.normal(size=(*shape, 4)), tf.float32), tf.constant(mask)


def experience(specs: Specs, shape: tuple[int, ...], seed: int = 0, state_units: int = 0) -> Trajectory:
    """Random windows [*shape, ...], the last of which is time, with boundaries anywhere and recurrent states."""
    random = np.random.default_rng(seed)
    step_type = tf.constant(random.integers(0, 3, shape), tf.int32)
    observation = observations(specs, shape, random)
    of_each = [random.integers(0, size, shape) for size in specs.action_sizes]
    return Trajectory(
        step_type=step_type,
        observation=observation,
        action=tf.constant(np.stack(of_each, -1) if of_each else random.integers(0, specs.num_actions, shape)),
        policy_info=tf.constant(random.normal(size=(*shape, state_units)), tf.float32) if state_units else (),
        next_step_type=tf.roll(step_type, -1, axis=len(shape) - 1),
        reward=tf.constant(random.normal(size=shape), tf.float32),
        discount=tf.constant(random.random(shape) < 0.8, tf.float32),
    )
