"""Stable-Baselines3 2.9.2 (PyTorch 2.13.0): its DQN class, on `DummyVecEnv`, as its documentation advises for CartPole.

Solve: the hyperparameters of RL Baselines3 Zoo for CartPole-v1 with DQN (hyperparams/dqn.yml), one environment. The
exploration schedule is that of its 50,000 steps; training goes on after them until it has solved or is out of time.
Other works: MLP 128-64, Adam 1e-3, epsilon 0.05, target network copied every 500 environment steps.
Learner: `DQN.train`, many gradient steps a call, sampling included; the target network is copied by environment steps
only, so that this work copies none. In all works Adam is PyTorch's fused one and the environments have no Monitor:
the same algorithm, faster than the defaults. PyTorch has one thread, faster than two at batch 64 for networks this
small; the learner is measured with one and with two, and the better counts.
"""

from typing import Any

import gymnasium
import numpy as np
import stable_baselines3
import torch
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import ReplayBuffer

from benchmarks.peers.programs import baselines
from benchmarks.peers.programs.baselines import COMMON, ENDLESS, QUIET, ZOO, Until, collected_per_second, environments
from benchmarks.peers.works import (
    BATCH_SIZE,
    CHECK_EVERY,
    ENVIRONMENT,
    FILLED,
    HIDDEN_UNITS,
    Request,
    Solving,
    main,
    rate,
)

GRADIENT_STEPS_PER_CALL = 50
INSERTS_PER_CALL = 1_000
SAMPLES_PER_CALL = 100
LEARNER_THREADS = (1, 2)
REPLAY_SIZES = (10_000, 100_000, 1_000_000)


def build(request: Request, lanes: int = 1, hidden_units: tuple[int, ...] = HIDDEN_UNITS, **settings: Any) -> DQN:
    torch.set_num_threads(1)
    network = {"net_arch": list(hidden_units), "optimizer_kwargs": {"fused": True}}
    return DQN("MlpPolicy", environments(lanes), policy_kwargs=network, seed=request.seed, device="cpu", **settings)


def optimizer_steps(model: DQN) -> int:
    """Gradient steps by the count that Adam keeps."""
    state = model.policy.optimizer.state
    return int(next(iter(state.values()))["step"]) if state else 0


def solve(request: Request) -> dict[str, Any]:
    solving = Solving(request)
    model = build(request, hidden_units=(256, 256), **ZOO)

    def policy(observations: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return model.predict(observations, deterministic=True)[0]

    def ended(environment_steps: int) -> bool:
        return environment_steps % CHECK_EVERY == 0 and solving.check(environment_steps, policy)

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
        model.train(GRADIENT_STEPS_PER_CALL, batch_size)
        counted += GRADIENT_STEPS_PER_CALL
        return GRADIENT_STEPS_PER_CALL

    def best(batch_size: int) -> float:
        rates = []
        for threads in LEARNER_THREADS:
            torch.set_num_threads(threads)
            rates.append(rate(lambda: train(batch_size), request.seconds))
        return max(rates)

    result = {str(size): best(size) for size in request.batch_sizes}
    assert optimizer_steps(model) == counted
    return result


def collect(request: Request) -> dict[str, Any]:
    return {str(lanes): collected_per_second(request, build, lanes, 10 * lanes) for lanes in request.lanes}


def replay(request: Request) -> dict[str, Any]:
    torch.set_num_threads(1)
    result: dict[str, dict[str, float]] = {"insert": {}, "sample": {}}
    with gymnasium.make(ENVIRONMENT) as environment:
        spaces = (environment.observation_space, environment.action_space)
    observation, action = np.ones((1, 4), np.float32), np.ones((1, 1), np.int64)
    reward, done, infos = np.ones(1, np.float32), np.zeros(1, bool), [{"TimeLimit.truncated": False}]
    for size in REPLAY_SIZES:
        buffer = ReplayBuffer(size, *spaces, device="cpu")

        def insert(buffer: ReplayBuffer = buffer) -> int:
            for _ in range(INSERTS_PER_CALL):
                buffer.add(observation, observation, action, reward, done, infos)
            return INSERTS_PER_CALL

        def sample(buffer: ReplayBuffer = buffer) -> int:
            for _ in range(SAMPLES_PER_CALL):
                buffer.sample(BATCH_SIZE)
            return SAMPLES_PER_CALL * BATCH_SIZE

        while not buffer.full:
            insert()
        result["insert"][str(size)] = rate(insert, request.seconds)
        result["sample"][str(size)] = rate(sample, request.seconds)
    return result


if __name__ == "__main__":
    main(
        {"solve": solve, "fixed": fixed, "learner": learner, "collect": collect, "replay": replay},
        {
            "stable-baselines3": stable_baselines3.__version__,
            "torch": torch.__version__,
            "gymnasium": gymnasium.__version__,
        },
    )
