"""Plain DQN in JAX, for programs that compile whole loops: MLP 128-64, Adam, mean squared TD error, hard target copies.

Batches are observations, actions, rewards, next observations and terminations `[batch, ...]`.
"""

import jax
import jax.numpy as jnp
import optax

from benchmarks.peers.works import HIDDEN_UNITS

Params = list[tuple[jax.Array, jax.Array]]
Batch = tuple[jax.Array, ...]

TARGET_EVERY = 500
DISCOUNT = 0.99
OPTIMIZER = optax.adam(1e-3)

Learning = tuple[Params, Params, optax.OptState, jax.Array]
"""Weights, target weights, the optimizer's state and the count of steps."""


def initial(seed: int) -> Learning:
    keys = jax.random.split(jax.random.PRNGKey(seed), 3)
    widths = (4, *HIDDEN_UNITS, 2)
    params = [
        (jax.random.normal(key, (inputs, outputs)) * (2 / inputs) ** 0.5, jnp.zeros(outputs))
        for key, inputs, outputs in zip(keys, widths[:-1], widths[1:], strict=True)
    ]
    return params, params, OPTIMIZER.init(params), jnp.zeros((), jnp.int32)


def q_values(params: Params, observations: jax.Array) -> jax.Array:
    values = observations
    for weights, biases in params[:-1]:
        values = jax.nn.relu(values @ weights + biases)
    return values @ params[-1][0] + params[-1][1]


def gradient_step(learning: Learning, batch: Batch) -> tuple[Learning, jax.Array]:
    """One gradient step and its loss."""
    params, target, optimizing, step = learning
    observations, actions, rewards, nexts, terminations = batch
    targets = rewards + (1 - terminations) * DISCOUNT * q_values(target, nexts).max(axis=-1)

    def loss(params: Params) -> jax.Array:
        chosen = jnp.take_along_axis(q_values(params, observations), actions[:, None], axis=-1)[:, 0]
        return ((chosen - targets) ** 2).mean()

    value, gradients = jax.value_and_grad(loss)(params)
    updates, optimizing = OPTIMIZER.update(gradients, optimizing, params)
    params = optax.apply_updates(params, updates)
    step += 1
    target = jax.tree.map(lambda new, old: jnp.where(step % TARGET_EVERY == 0, new, old), params, target)
    return (params, target, optimizing, step), value
