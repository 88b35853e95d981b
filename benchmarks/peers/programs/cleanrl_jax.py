"""CleanRL's DQN in JAX (`dqn_jax.py` of CleanRL 1.0 and later) on jax 0.10.2, flax 0.12.8 and optax 0.2.8.

CleanRL is single-file scripts and no library, so this is its published algorithm, written anew: one process that steps
a gymnasium `SyncVectorEnv`, keeps transitions in a uniform ring buffer in host memory and, every `train_frequency`
steps, gives a sampled batch to one jitted update (mean squared TD error, Adam, hard target copies).

The defaults of `dqn_jax.py`, which its authors publish for CartPole-v1
(https://docs.cleanrl.dev/rl-algorithms/dqn/#dqn_jaxpy), are 500 000 steps, learning rate 2.5e-4, buffer 10 000,
discount 0.99, tau 1, target network every 500 steps, batch 128, epsilon 1 to 0.05 over half the steps, learning from
step 10 000 on every 10 steps, network 120-84. They are made for a sure run and not for a short one: epsilon falls for
250 000 steps. The work "solve" shows the script at its best and changes what the script has options for: learning rate
1e-3, learning from step 1 000 on every 2 steps, target network every 250, epsilon falling over 10 000 steps. These are
our choice and nobody's publication: the first of five settings looked at, the only one run on each of the seeds 100 to
104 (in JAX), where it solved on all, in 10 000 to 60 000 steps.

The other works use the sizes common to all peers, epsilon 0.05 and Adam at 1e-3.

Departures, each meant to the peer's advantage: the buffer is plain NumPy and returns arrays (the original's goes
through torch tensors), the argmax is inside the jitted call, nothing is logged, and "collect" with more than one
environment steps gymnasium's own vectorised CartPole, the original being limited to one environment.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training.train_state import TrainState

from benchmarks.peers.programs import cleanrl
from benchmarks.peers.programs.cleanrl import Array, Batch, Settings
from benchmarks.peers.works import Solving, main


class QNetwork(nn.Module):
    hidden_units: tuple[int, ...]

    @nn.compact
    def __call__(self, observations: jax.Array) -> jax.Array:
        values = observations
        for units in self.hidden_units:
            values = nn.relu(nn.Dense(units)(values))
        return nn.Dense(2)(values)


class LearnerState(TrainState):
    target_params: flax.core.FrozenDict[str, Any]


class Agent:
    """The network, its target and the optimizer, with the two jitted calls of the script."""

    def __init__(self, settings: Settings, seed: int) -> None:
        network = QNetwork(settings.hidden_units)
        params = network.init(jax.random.PRNGKey(seed), np.zeros((1, 4), np.float32))
        adam = optax.adam(settings.learning_rate)
        self.state = LearnerState.create(apply_fn=network.apply, params=params, target_params=params, tx=adam)
        self._greedy = jax.jit(lambda params, observations: network.apply(params, observations).argmax(axis=-1))
        self._update = jax.jit(partial(update, network, settings.discount))

    def greedy(self, observations: Array) -> Array:
        actions: Array = jax.device_get(self._greedy(self.state.params, observations))
        return actions

    def learn(self, batch: Batch) -> None:
        self.state, _ = self._update(self.state, batch)

    def renew_target(self) -> None:
        self.state = self.state.replace(target_params=self.state.params)

    def wait(self) -> None:
        """Until all gradient steps asked for are done."""
        jax.block_until_ready(self.state)


def update(network: QNetwork, discount: float, state: LearnerState, batch: Batch) -> tuple[LearnerState, jax.Array]:
    """One gradient step and its loss."""
    observations, actions, rewards, nexts, terminations = batch
    best = network.apply(state.target_params, nexts).max(axis=-1)
    targets = rewards + (1 - terminations) * discount * best

    def loss(params: Any) -> jax.Array:
        values = network.apply(params, observations)
        return ((values[jnp.arange(len(actions)), actions] - targets) ** 2).mean()

    value, gradients = jax.value_and_grad(loss)(state.params)
    return state.apply_gradients(grads=gradients), value


class Compiling:
    """Seconds JAX spent tracing, lowering and compiling, calls inside calls counted once."""

    def __init__(self) -> None:
        self._spans: list[tuple[float, float]] = []
        self._paused = False
        jax.monitoring.register_event_duration_secs_listener(self._note)

    def _note(self, event: str, seconds: float, **_: Any) -> None:
        if self._paused or not event.startswith("/jax/core/compile/"):
            return
        began = time.perf_counter() - seconds
        self._spans = [span for span in self._spans if span[0] < began]
        self._spans.append((began, seconds))

    @contextmanager
    def paused(self) -> Iterator[None]:
        self._paused = True
        yield
        self._paused = False

    def taken(self) -> float:
        """Seconds since this was asked last."""
        seconds = sum(span[1] for span in self._spans)
        self._spans = []
        return seconds


class Recipe(cleanrl.Recipe):
    """The works, compiling off the clock of "solve"."""

    def start(self, solving: Solving) -> None:
        self._compiling = Compiling()  # now: what was compiled before is start-up already
        super().start(solving)

    def check(self, solving: Solving, environment_steps: int, agent: cleanrl.Agent) -> bool:
        agent.wait()
        solving.off_the_clock(self._compiling.taken())
        with self._compiling.paused():
            return super().check(solving, environment_steps, agent)


if __name__ == "__main__":
    main(
        Recipe(Agent, np.int32).works(), {"jax": jax.__version__, "flax": flax.__version__, "optax": optax.__version__}
    )
