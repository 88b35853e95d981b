"""DQN as one compiled JAX program (jax 0.10.2, optax 0.2.8): environments, ring buffer and gradient steps in one scan.

The form of PureJaxRL's DQN (`purejaxrl/dqn.py`) and of Stoix's Anakin systems, written anew: CartPole's equations in
JAX (Barto, Sutton and Anderson 1983, with the constants and limits of gymnasium's CartPole-v1, float32), a reset in the
step that ends an episode, a uniform ring buffer of transitions that stays in the program's memory, epsilon-greedy
actions (0.05), and as many gradient steps as environment steps. A call is one `jax.lax.scan` of 1,000 environment
steps; its memory is donated, so that nothing is copied between calls. MLP 128-64, Adam 1e-3, target network copied
every 500 gradient steps, batch 64. What it cannot do is take an environment that is not written in JAX.

"fixed" is measured with one environment, and with 16 (`vectorised_steps_per_second`: 16 environments step, then 16
gradient steps follow, one after the other). Compiling is off the clock. "collect" is acting, stepping and storing
alone.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.peers.programs import jax_dqn
from benchmarks.peers.works import BATCH_SIZE, ENVIRONMENT, REPLAY_CAPACITY, WARM_UP, Request, main, rate

A_CALL = 1_000  # environment steps, of all lanes together, or a little less
EPSILON = 0.05
MOST_STEPS = 500
LIMIT, ANGLE_LIMIT = 2.4, 12 * 2 * jnp.pi / 360
GRAVITY, CART, POLE, HALF_LENGTH, FORCE, SECONDS = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02


class State(NamedTuple):
    """All that the loop carries on.

    Attributes:
      key: of JAX's random numbers.
      states: of the environments, `[lanes, 4]`: position, velocity, angle, angular velocity.
      ages: steps of their episodes `[lanes]`.
      ring: transitions, a field each, `[capacity, ...]`.
      stored: how many were stored ever.
      learning: see `jax_dqn`.
      episodes: how many ended.
    """

    key: jax.Array
    states: jax.Array
    ages: jax.Array
    ring: jax_dqn.Batch
    stored: jax.Array
    learning: jax_dqn.Learning
    episodes: jax.Array


def first_states(key: jax.Array, lanes: int) -> jax.Array:
    return jax.random.uniform(key, (lanes, 4), jnp.float32, -0.05, 0.05)


def move(states: jax.Array, actions: jax.Array) -> jax.Array:
    """CartPole's states after one step of Euler's method."""
    position, speed, angle, turn = (states[:, k] for k in range(4))
    force = jnp.where(actions == 1, FORCE, -FORCE)
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    both = CART + POLE
    pushed = (force + POLE * HALF_LENGTH * turn**2 * sine) / both
    turning = (GRAVITY * sine - cosine * pushed) / (HALF_LENGTH * (4.0 / 3.0 - POLE * cosine**2 / both))
    speeding = pushed - POLE * HALF_LENGTH * turning * cosine / both
    moved = position + SECONDS * speed, speed + SECONDS * speeding, angle + SECONDS * turn, turn + SECONDS * turning
    return jnp.stack(moved, axis=-1)


def has_fallen(states: jax.Array) -> jax.Array:
    return (jnp.abs(states[:, 0]) > LIMIT) | (jnp.abs(states[:, 2]) > ANGLE_LIMIT)


def collected(state: State, lanes: int) -> State:
    """Every environment steps once and its transition is stored."""
    key, exploring, choosing, resetting = jax.random.split(state.key, 4)
    greedy = jax_dqn.q_values(state.learning[0], state.states).argmax(axis=-1)
    is_random = jax.random.uniform(exploring, (lanes,)) < EPSILON
    actions = jnp.where(is_random, jax.random.randint(choosing, (lanes,), 0, 2), greedy).astype(jnp.int32)
    moved, ages = move(state.states, actions), state.ages + 1
    fallen = has_fallen(moved)
    over = fallen | (ages >= MOST_STEPS)
    one = state.states, actions, jnp.ones(lanes), moved, fallen.astype(jnp.float32)
    row = state.stored % REPLAY_CAPACITY  # a multiple of the lanes, so that no step runs over the ring's end
    ring = tuple(
        jax.lax.dynamic_update_slice_in_dim(field, values.astype(field.dtype), row, 0)
        for field, values in zip(state.ring, one, strict=True)
    )
    states = jnp.where(over[:, None], first_states(resetting, lanes), moved)
    stored, episodes = state.stored + lanes, state.episodes + over.sum()
    return State(key, states, jnp.where(over, 0, ages), ring, stored, state.learning, episodes)


def learned(state: State, _: Any) -> tuple[State, None]:
    """One gradient step on a batch drawn from the ring."""
    key, drawing = jax.random.split(state.key)
    rows = jax.random.randint(drawing, (BATCH_SIZE,), 0, jnp.minimum(state.stored, REPLAY_CAPACITY))
    learning, _ = jax_dqn.gradient_step(state.learning, tuple(field[rows] for field in state.ring))
    return state._replace(key=key, learning=learning), None


@partial(jax.jit, static_argnames=("lanes", "learns"), donate_argnums=0)
def loop(state: State, lanes: int, learns: bool) -> State:
    """`A_CALL // lanes` steps of every environment, each followed by as many gradient steps as there are lanes."""

    def step(state: State, _: Any) -> tuple[State, None]:
        state = collected(state, lanes)
        if learns and lanes == 1:
            state, _ = learned(state, None)
        elif learns:
            state, _ = jax.lax.scan(learned, state, length=lanes)
        return state, None

    return jax.lax.scan(step, state, length=A_CALL // lanes)[0]


def check_equations(seed: int) -> None:
    """Ends the program where its environment is not gymnasium's."""
    environment, random = gymnasium.make(ENVIRONMENT), np.random.default_rng(seed)
    observation, _ = environment.reset(seed=seed)
    over = False
    while not over:
        action = int(random.integers(2))
        expected = move(jnp.asarray(observation)[None], jnp.asarray([action]))
        observation, _, over, _, _ = environment.step(action)
        assert np.allclose(expected[0], observation, atol=1e-4), "these are not gymnasium's equations"
        assert bool(has_fallen(expected)[0]) == over, "an episode does not end where gymnasium's does"


def begun(lanes: int, seed: int) -> State:
    key, starting = jax.random.split(jax.random.PRNGKey(seed))
    ring = (
        jnp.zeros((REPLAY_CAPACITY, 4)),
        jnp.zeros(REPLAY_CAPACITY, jnp.int32),
        jnp.zeros(REPLAY_CAPACITY),
        jnp.zeros((REPLAY_CAPACITY, 4)),
        jnp.zeros(REPLAY_CAPACITY),
    )
    states, ages, none = first_states(starting, lanes), jnp.zeros(lanes, jnp.int32), jnp.zeros((), jnp.int32)
    state = State(key, states, ages, ring, none, jax_dqn.initial(seed), none)
    return jax.tree.map(jnp.copy, state)  # one buffer, as of weights and target weights, cannot be donated twice


def fixed_rate(request: Request, lanes: int) -> tuple[float, int]:
    """Environment steps per second, and how many there were."""
    state = begun(lanes, request.seed)
    for _ in range(-(-WARM_UP // A_CALL)):
        state = loop(state, lanes, learns=False)
    state = jax.block_until_ready(loop(state, lanes, learns=True))  # compiles
    before, started = int(state.learning[3]), time.perf_counter()
    steps = 0
    while steps < request.steps and time.perf_counter() - started < request.seconds:
        state = jax.block_until_ready(loop(state, lanes, learns=True))
        steps += A_CALL // lanes * lanes
    passed = time.perf_counter() - started
    assert int(state.learning[3]) - before == steps, "gradient steps are counted wrongly"
    return steps / passed, steps


def fixed(request: Request) -> dict[str, Any]:
    check_equations(request.seed)
    one, steps = fixed_rate(request, 1)
    return {"steps_per_second": one, "vectorised_steps_per_second": fixed_rate(request, 16)[0], "steps": steps}


def collect(request: Request) -> dict[str, Any]:
    return {str(lanes): rate(collecting(request, lanes), request.seconds) for lanes in request.lanes}


def collecting(request: Request, lanes: int) -> Callable[[], int]:
    state = begun(lanes, request.seed)

    def call() -> int:
        nonlocal state
        state = jax.block_until_ready(loop(state, lanes, learns=False))
        return A_CALL // lanes * lanes

    return call


if __name__ == "__main__":
    main({"fixed": fixed, "collect": collect}, {"jax": jax.__version__, "optax": optax.__version__})
