"""Upper limits and no peer: what is left when everything but the computing, or everything but the stepping, is away.

- "learner": DQN gradient steps (MLP 128-64, Adam, mean squared TD error, hard target copies every 500 steps) in a
  `jax.lax.scan` of 100 steps a call over batches sampled before the clock starts; jax 0.10.2, optax 0.2.8. No replay
  and no sampling: what XLA can compute on this machine, for a learner that gets its batches for nothing. At
  batches of 1024 computing is all there is, and a jitted update a step reaches the same.
- "collect": bare stepping with random actions drawn before the clock starts, no policy and no replay, of gymnasium
  1.4.0's vectorised CartPole ("1", "16", "64") and EnvPool 1.2.5's synchronous one ("envpool_1", ...).

A reset is no environment step: gymnasium's and EnvPool's CartPole both reset in the step after an episode's last, and
that step is not counted.
"""

from collections.abc import Callable
from typing import Any

import envpool
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers.programs.jax_dqn import Batch, Learning, gradient_step, initial
from benchmarks.peers.works import ENVIRONMENT, FILLED, Request, main, rate

SCANNED = 100  # gradient steps of one call
STEPS_A_CALL = 100


@jax.jit
def gradient_steps(learning: Learning, batches: Batch) -> tuple[Learning, jax.Array]:
    """`SCANNED` gradient steps and their losses, each on its own batch of batches `[SCANNED, batch, ...]`."""
    return jax.lax.scan(gradient_step, learning, batches)


def random_transitions(count: int, seed: int) -> tuple[np.ndarray[Any, Any], ...]:
    """Transitions of random actions."""
    random, lanes = np.random.default_rng(seed), 64
    environments = vectorised(lanes)
    observations, _ = environments.reset(seed=seed)
    kept: list[tuple[Any, ...]] = []
    ended = np.zeros(lanes, bool)
    while sum(len(one[1]) for one in kept) < count:
        actions = random.integers(2, size=lanes)
        nexts, rewards, terminated, truncated, _ = environments.step(actions)
        one = (observations, actions.astype(np.int32), rewards, nexts, terminated.astype(np.float32))
        kept.append(tuple(values[~ended] for values in one))
        observations, ended = nexts, terminated | truncated
    return tuple(np.concatenate(field)[:count] for field in zip(*kept, strict=True))


def learner(request: Request) -> dict[str, Any]:
    transitions = random_transitions(FILLED, request.seed)
    return {str(size): learner_rate(transitions, size, request) for size in request.batch_sizes}


def learner_rate(transitions: tuple[np.ndarray[Any, Any], ...], batch_size: int, request: Request) -> float:
    rows = np.random.default_rng(request.seed).integers(FILLED, size=(SCANNED, batch_size))
    batches = tuple(jnp.asarray(field[rows]) for field in transitions)
    learning, calls = initial(request.seed), 0

    def steps() -> int:
        nonlocal learning, calls
        learning, _ = jax.block_until_ready(gradient_steps(learning, batches))
        calls += 1
        return SCANNED

    result = rate(steps, request.seconds)
    assert int(learning[3]) == calls * SCANNED, "gradient steps are counted wrongly"
    return result


def vectorised(lanes: int) -> Any:
    made = gymnasium.make_vec(ENVIRONMENT, num_envs=lanes, vectorization_mode="vector_entry_point")
    return made.unwrapped


def collect(request: Request) -> dict[str, Any]:
    result = {}
    for lanes in request.lanes:
        environments = vectorised(lanes)
        environments.reset(seed=request.seed)
        result[str(lanes)] = stepping_rate(environments.step, lanes, np.int64, request)
        pool = envpool.make_gymnasium(ENVIRONMENT, num_envs=lanes, seed=request.seed)
        pool.reset()
        result[f"envpool_{lanes}"] = stepping_rate(pool.step, lanes, np.int32, request)
        pool.close()
    return result


def stepping_rate(step: Callable[[Any], Any], lanes: int, action_type: type, request: Request) -> float:
    random = np.random.default_rng(request.seed)
    actions = [random.integers(2, size=lanes).astype(action_type) for _ in range(STEPS_A_CALL)]

    def steps() -> int:
        ended = 0
        for one in actions:
            _, _, terminated, truncated, _ = step(one)
            ended += np.count_nonzero(terminated | truncated)
        return STEPS_A_CALL * lanes - ended  # each end is followed by one reset

    return rate(steps, request.seconds)


if __name__ == "__main__":
    main(
        {"learner": learner, "collect": collect},
        {"jax": jax.__version__, "gymnasium": gymnasium.__version__, "envpool": envpool.__version__},
    )
