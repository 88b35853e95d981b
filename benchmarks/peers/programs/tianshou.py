"""Tianshou 2.0.1 (PyTorch 2.13.0): its DQN with `Collector`, `DummyVectorEnv` and `VectorReplayBuffer`.

Solve: the settings of the CartPole-v1 example in Tianshou's README (DQN). All works train by a loop of its
`Collector.collect` and `DQN.update` and not by its trainer: that one looks for NaN in the whole replay after every
collecting. Numba's compiling counts as start-up.
Other works: MLP 128-64, Adam 1e-3, epsilon 0.05, n-step 1, Double DQN off, target network copied every 500 updates.
In all works Adam is PyTorch's fused one. PyTorch has one thread; the learner is measured with one and with two, and
the better counts.
"""

import time
from importlib.metadata import version
from typing import Any

import gymnasium
import numpy as np
import torch
from tianshou.algorithm import DQN
from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
from tianshou.algorithm.optim import TorchOptimizerFactory
from tianshou.data import Batch, Collector, ReplayBuffer, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.utils.net.common import Net
from tianshou.utils.torch_utils import policy_within_training_step

from benchmarks.peers.works import (
    BATCH_SIZE,
    CHECK_EVERY,
    ENVIRONMENT,
    FILLED,
    HIDDEN_UNITS,
    REPLAY_CAPACITY,
    WARM_UP,
    Request,
    Solving,
    main,
    rate,
)

TRAINING_WARM_UP = 50
UPDATES_PER_CALL = 50
VECTOR_STEPS_PER_CALL = 64
LEARNER_THREADS = (1, 2)
INSERTS_PER_CALL = 1_000
SAMPLES_PER_CALL = 100
REPLAY_SIZES = (10_000, 100_000, 1_000_000)

README_LANES = 10
README_STEPS_PER_UPDATE = 10
README_REPLAY_CAPACITY = 20_000
README_HIDDEN_UNITS = (128, 128, 128)
README: dict[str, Any] = {"gamma": 0.9, "n_step_return_horizon": 3, "target_update_freq": 320}
README_EPSILON = 0.1
COMMON: dict[str, Any] = {"gamma": 0.99, "target_update_freq": 500, "is_double": False}
EPSILON = 0.05


class Agent:
    """The algorithm, and the collector with environments and replay."""

    def __init__(
        self, seed: int, hidden_units: tuple[int, ...], lanes: int, capacity: int, epsilon: float, **settings: Any
    ) -> None:
        torch.set_num_threads(1)
        np.random.seed(seed)
        torch.manual_seed(seed)
        environments = DummyVectorEnv(
            [lambda: gymnasium.make(ENVIRONMENT, disable_env_checker=True) for _ in range(lanes)]
        )
        environments.seed(seed)
        actions = environments.action_space[0]
        network = Net(state_shape=4, action_shape=int(actions.n), hidden_sizes=hidden_units)
        policy = DiscreteQLearningPolicy(model=network, action_space=actions, eps_training=epsilon)
        optimizer = TorchOptimizerFactory(torch.optim.Adam, lr=1e-3, fused=True)
        self.algorithm = DQN(policy=policy, optim=optimizer, **settings)
        self.replay = VectorReplayBuffer(capacity, lanes)
        self._collector = Collector(self.algorithm, environments, self.replay, exploration_noise=True)
        self._collector.reset()

    def collect(self, steps: int, random: bool = False) -> int:
        """Collects that many environment steps over all lanes."""
        with policy_within_training_step(self.algorithm.policy):
            return int(self._collector.collect(n_step=steps, random=random).n_collected_steps)

    def update(self, batch_size: int) -> None:
        with policy_within_training_step(self.algorithm.policy):
            self.algorithm.update(self.replay, batch_size)

    def greedy(self, observations: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        with torch.no_grad():
            return self.algorithm.policy(Batch(obs=observations, info=Batch())).act

    @property
    def optimizer_steps(self) -> int:
        """Gradient steps by the count that Adam keeps."""
        return int(self.algorithm.optim.state_dict()["state"][0]["step"])


def readme_agent(seed: int) -> Agent:
    return Agent(seed, README_HIDDEN_UNITS, README_LANES, README_REPLAY_CAPACITY, README_EPSILON, **README)


def compile_all(seed: int) -> None:
    """Has Numba compile what training calls, on an agent of its own."""
    agent = readme_agent(seed)
    agent.collect(BATCH_SIZE * README_LANES)
    agent.update(BATCH_SIZE)


def solve(request: Request) -> dict[str, Any]:
    solving = Solving(request)
    compile_all(request.seed)
    agent = readme_agent(request.seed)
    solving.start()
    steps = 0
    while True:
        steps += agent.collect(README_STEPS_PER_UPDATE)
        agent.update(BATCH_SIZE)
        if steps % CHECK_EVERY == 0 and solving.check(steps, agent.greedy):
            return solving.result()


def fixed(request: Request) -> dict[str, Any]:
    agent = Agent(request.seed, HIDDEN_UNITS, 1, REPLAY_CAPACITY, EPSILON, **COMMON)
    agent.collect(WARM_UP)

    def step() -> None:
        agent.collect(1)
        agent.update(BATCH_SIZE)

    for _ in range(TRAINING_WARM_UP):
        step()
    steps, started, passed = 0, time.perf_counter(), 0.0
    while steps < request.steps and passed < request.seconds:
        step()
        steps += 1
        passed = time.perf_counter() - started
    assert agent.optimizer_steps == steps + TRAINING_WARM_UP
    return {"steps_per_second": steps / passed, "steps": steps}


def learner(request: Request) -> dict[str, Any]:
    agent = Agent(request.seed, HIDDEN_UNITS, 1, FILLED, EPSILON, **COMMON)
    agent.collect(FILLED, random=True)
    counted = 0

    def train(batch_size: int) -> int:
        nonlocal counted
        for _ in range(UPDATES_PER_CALL):
            agent.update(batch_size)
        counted += UPDATES_PER_CALL
        return UPDATES_PER_CALL

    def best(batch_size: int) -> float:
        rates = []
        for threads in LEARNER_THREADS:
            torch.set_num_threads(threads)
            rates.append(rate(lambda: train(batch_size), request.seconds))
        return max(rates)

    result = {str(size): best(size) for size in request.batch_sizes}
    assert agent.optimizer_steps == counted
    return result


def collected_per_second(request: Request, lanes: int) -> float:
    agent = Agent(request.seed, HIDDEN_UNITS, lanes, REPLAY_CAPACITY, EPSILON, **COMMON)
    return rate(lambda: agent.collect(VECTOR_STEPS_PER_CALL * lanes), request.seconds)


def collect(request: Request) -> dict[str, Any]:
    return {str(lanes): collected_per_second(request, lanes) for lanes in request.lanes}


def filled(size: int) -> ReplayBuffer:
    """A full replay, made of whole arrays: adding a million transitions one by one takes a minute."""
    observations, false = np.ones((size, 4), np.float32), np.zeros(size, bool)
    return ReplayBuffer.from_data(
        observations, np.ones(size, np.int64), np.ones(size), false, false.copy(), false.copy(), observations.copy()
    )


def replay(request: Request) -> dict[str, Any]:
    result: dict[str, dict[str, float]] = {"insert": {}, "sample": {}}
    observation = np.ones(4, np.float32)
    transition = Batch(obs=observation, act=1, rew=1.0, terminated=False, truncated=False, obs_next=observation)
    for size in REPLAY_SIZES:
        buffer = filled(size)
        assert len(buffer) == size

        def insert(buffer: ReplayBuffer = buffer) -> int:
            for _ in range(INSERTS_PER_CALL):
                buffer.add(transition)
            return INSERTS_PER_CALL

        def sample(buffer: ReplayBuffer = buffer) -> int:
            for _ in range(SAMPLES_PER_CALL):
                buffer.sample(BATCH_SIZE)
            return SAMPLES_PER_CALL * BATCH_SIZE

        result["insert"][str(size)] = rate(insert, request.seconds)
        result["sample"][str(size)] = rate(sample, request.seconds)
    return result


if __name__ == "__main__":
    main(
        {"solve": solve, "fixed": fixed, "learner": learner, "collect": collect, "replay": replay},
        {name: version(name) for name in ("tianshou", "torch", "gymnasium")},
    )
