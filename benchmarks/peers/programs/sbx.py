"""SBX 0.28.0 (Stable-Baselines3 2.9.2's algorithms in JAX 0.10.2): its DQN class, on `DummyVecEnv`.

Solve: the hyperparameters of RL Baselines3 Zoo for CartPole-v1 with DQN (hyperparams/dqn.yml), tuned with SB3; SBX's
README names that zoo as the way to train with SBX, and none of its own. One environment. The exploration schedule is
that of the zoo's 50,000 steps; training goes on after them until it has solved or is out of time. Compiling counts as
start-up.
Other works: Adam 1e-3, epsilon 0.05, target network copied every 500 environment steps, and MLP 128-64 by a policy of
ours, as SBX's own has two layers of one width.
Learner: `DQN.train` with 100 gradient steps a call, one sampled array and one `jax.lax.scan`, SBX's fastest form; the
target network is copied by environment steps only, so that this work copies none. Fixed: one gradient step a call.
In all works the environments have no Monitor. The replay is SB3's and is measured there.
"""

import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch
from sbx import DQN
from sbx.common.type_aliases import RLTrainState
from sbx.dqn.policies import DQNPolicy

from benchmarks.peers.programs import baselines
from benchmarks.peers.programs.baselines import COMMON, ENDLESS, QUIET, ZOO, Until, collected_per_second, environments
from benchmarks.peers.works import (
    CHECK_EVERY,
    FILLED,
    HIDDEN_UNITS,
    Request,
    Solving,
    main,
    rate,
)

COLLECTING_WARM_UP = 640  # environment steps: the target network's first copy, which compiles, is among them
GRADIENT_STEPS_PER_CALL = 100


class Network(nn.Module):
    """Action values by an MLP of `HIDDEN_UNITS`."""

    actions: int

    @nn.compact
    def __call__(self, observations: jax.Array) -> jax.Array:
        hidden = observations
        for units in HIDDEN_UNITS:
            hidden = nn.relu(nn.Dense(units)(hidden))
        return nn.Dense(self.actions)(hidden)


class NarrowingPolicy(DQNPolicy):
    """SBX's policy with `Network` in place of its two layers of one width."""

    def build(self, key: jax.Array, lr_schedule: Callable[[float], float]) -> jax.Array:
        key, network_key = jax.random.split(key)
        self.qf = Network(int(self.action_space.n))
        parameters = self.qf.init(network_key, jnp.zeros((1, *self.observation_space.shape)))
        self.qf_state = RLTrainState.create(
            apply_fn=self.qf.apply,
            params=parameters,
            target_params=parameters,
            tx=self.optimizer_class(learning_rate=lr_schedule(1), **self.optimizer_kwargs),
        )
        return key


class CompileClock:
    """Seconds that JAX spent on tracing, lowering and compiling."""

    def __init__(self) -> None:
        self._spans: list[tuple[float, float]] = []
        jax.monitoring.register_event_duration_secs_listener(self._heard)

    def _heard(self, event: str, duration: float, **_: Any) -> None:
        if event.startswith("/jax/core/compile/"):
            now = time.perf_counter()
            self._spans.append((now - duration, now))

    def take(self) -> float:
        """Seconds since the last `take`; a span inside another, as of nested traces, counts once."""
        seconds, reached = 0.0, 0.0
        for started, ended in sorted(self._spans):
            seconds += max(0.0, ended - max(started, reached))
            reached = max(reached, ended)
        self._spans.clear()
        return seconds


def build(request: Request, lanes: int = 1, policy: str | type[DQNPolicy] = NarrowingPolicy, **settings: Any) -> DQN:
    torch.set_num_threads(1)  # it only wraps the replay's arrays
    return DQN(policy, environments(lanes), seed=request.seed, **settings)


def optimizer_steps(model: DQN) -> int:
    """Gradient steps by the count that Adam keeps."""
    return int(model.policy.qf_state.opt_state[0].count)


def solve(request: Request) -> dict[str, Any]:
    solving, compiling = Solving(request), CompileClock()
    model = build(request, policy="MlpPolicy", policy_kwargs={"net_arch": [256, 256]}, **ZOO)

    def policy(observations: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return model.predict(observations, deterministic=True)[0]

    def ended(environment_steps: int) -> bool:
        if environment_steps % CHECK_EVERY:
            return False
        solving.off_the_clock(compiling.take())
        solved = solving.check(environment_steps, policy)
        compiling.take()  # the evaluation's, off the clock already
        return solved

    compiling.take()
    solving.start()
    model.learn(ENDLESS, Until(ended), log_interval=QUIET)
    return solving.result()


def fixed(request: Request) -> dict[str, Any]:
    return baselines.fixed(request, build, optimizer_steps)


def learner(request: Request) -> dict[str, Any]:
    model = build(request, learning_starts=FILLED + 1, **COMMON)
    model.learn(FILLED, log_interval=QUIET)
    counted = 0

    def train(batch_size: int) -> int:
        nonlocal counted
        model.train(batch_size, GRADIENT_STEPS_PER_CALL)  # waits for the loss, and so for all the steps
        counted += GRADIENT_STEPS_PER_CALL
        return GRADIENT_STEPS_PER_CALL

    result = {str(size): rate(lambda size=size: train(size), request.seconds) for size in request.batch_sizes}
    assert optimizer_steps(model) == counted
    return result


def collect(request: Request) -> dict[str, Any]:
    return {str(lanes): collected_per_second(request, build, lanes, COLLECTING_WARM_UP) for lanes in request.lanes}


if __name__ == "__main__":
    main(
        {"solve": solve, "fixed": fixed, "learner": learner, "collect": collect},
        {name: version(name) for name in ("sbx-rl", "stable-baselines3", "jax", "torch", "gymnasium")},
    )
