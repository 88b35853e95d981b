"""RLlib of Ray 2.60.0: DQN on the new API stack (EnvRunner, Learner, EpisodeReplayBuffer), PyTorch 2.13.0.

Form: local EnvRunner and local Learner in the driver's process (`num_env_runners=0`, `num_learners=0`, RLlib's defaults
for DQN), one thread in PyTorch, on a Ray of two CPUs without a dashboard. "fixed" is `Algorithm.train()` with a rollout
fragment of 1: one environment step, then one gradient step. "learner" draws from the EpisodeReplayBuffer and updates
the LearnerGroup, as DQN's training_step does. "collect" is EnvRunnerGroup sampling by fragments of 64 steps a lane into
the EpisodeReplayBuffer, the faster of a local EnvRunner and two remote ones; its lanes step in gymnasium's own CartPole
vector environment, `COLLECT_VECTORIZATION`, which was faster than "sync".
"solve" is `Algorithm.train()`; settings of RLlib's tuned example `rllib/examples/algorithms/dqn/cartpole_dqn.py`
(double, dueling, prioritized replay, n-step 2 to 5, epsilon down to 0.02 over 10,000 steps, one update per 5 steps).
"""

import importlib.metadata
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import numpy as np
import ray
import torch
from ray.rllib.algorithms.dqn import DQN, DQNConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.execution.rollout_ops import synchronous_parallel_sample
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    NUM_AGENT_STEPS_SAMPLED_LIFETIME,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
)

from benchmarks.peers import works

COLLECT_VECTORIZATION = "vector_entry_point"
_FIXED_STEPS_A_CALL = 100  # of Algorithm.train(): often enough to look at the clock, too rare to cost


@contextmanager
def _built(config: DQNConfig, seed: int) -> Iterator[DQN]:
    """The algorithm on a Ray of its own, which leaves no process and no file behind."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR", _temp_dir=folder)
        try:
            algorithm = config.debugging(seed=seed).build_algo()
            try:
                yield algorithm
            finally:
                algorithm.stop()
                shutil.rmtree(algorithm.logdir, ignore_errors=True)
        finally:
            ray.shutdown()


def _config(**training: Any) -> DQNConfig:
    settings: dict[str, Any] = {
        "lr": 1e-3,
        "train_batch_size_per_learner": works.BATCH_SIZE,
        "replay_buffer_config": {"type": "EpisodeReplayBuffer", "capacity": works.REPLAY_CAPACITY},
        "n_step": 1,
        "double_q": False,
        "dueling": False,
        "num_steps_sampled_before_learning_starts": works.WARM_UP,
    }
    model = DefaultModelConfig(fcnet_hiddens=list(works.HIDDEN_UNITS), fcnet_activation="relu", head_fcnet_hiddens=[])
    return (
        DQNConfig()
        .environment(works.ENVIRONMENT)
        .env_runners(num_env_runners=0, rollout_fragment_length=1)
        .learners(num_learners=0)
        .training(**{**settings, **training})
        .rl_module(model_config=model)
        .reporting(min_sample_timesteps_per_iteration=_FIXED_STEPS_A_CALL)
    )


def _tuned() -> DQNConfig:
    """The tuned example for CartPole-v1, reporting as often as the policy is evaluated."""
    model = DefaultModelConfig(
        fcnet_hiddens=[256],
        fcnet_activation="tanh",
        fcnet_bias_initializer="zeros_",
        head_fcnet_hiddens=[256],
        head_fcnet_bias_initializer="zeros_",
    )
    return (
        DQNConfig()
        .environment(works.ENVIRONMENT)
        .training(
            lr=0.0005,
            train_batch_size_per_learner=32,
            replay_buffer_config={
                "type": "PrioritizedEpisodeReplayBuffer",
                "capacity": 50_000,
                "alpha": 0.6,
                "beta": 0.4,
            },
            n_step=(2, 5),
            double_q=True,
            dueling=True,
            epsilon=[(0, 1.0), (10_000, 0.02)],
        )
        .rl_module(model_config=model)
        .reporting(min_sample_timesteps_per_iteration=works.CHECK_EVERY)
    )


def _gradient_steps(algorithm: DQN) -> int:
    """What the optimizer itself counted."""
    (optimizer,) = algorithm.learner_group._learner._named_optimizers.values()
    return max((int(state["step"]) for state in optimizer.state.values()), default=0)


def _environment_steps(algorithm: DQN) -> int:
    return int(algorithm.metrics.peek((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME), default=0))


def solve(request: works.Request) -> dict[str, Any]:
    solving = works.Solving(request)
    with _built(_tuned(), request.seed) as algorithm:
        policy = _greedy(algorithm)
        solving.start()
        while True:
            algorithm.train()
            if solving.check(_environment_steps(algorithm), policy):
                return solving.result()


def _greedy(algorithm: DQN) -> works.Policy:
    module = algorithm.get_module()

    def act(observations: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        with torch.no_grad():
            actions: torch.Tensor = module.forward_inference({"obs": torch.from_numpy(observations)})["actions"]
        return actions.numpy()

    return act


def fixed(request: works.Request) -> dict[str, Any]:
    with _built(_config(), request.seed) as algorithm:
        while _gradient_steps(algorithm) < 50:
            algorithm.train()
        before, environment_steps = _gradient_steps(algorithm), _environment_steps(algorithm)
        started, steps = time.perf_counter(), 0
        while steps < request.steps and time.perf_counter() - started < request.seconds:
            algorithm.train()
            steps = _gradient_steps(algorithm) - before
        passed = time.perf_counter() - started
        assert _environment_steps(algorithm) - environment_steps == steps, "not one gradient step per environment step"
        return {"steps_per_second": steps / passed, "steps": steps}


def learner(request: works.Request) -> dict[str, Any]:
    with _built(_config(), request.seed) as algorithm:
        episodes = algorithm.env_runner.sample(num_timesteps=works.FILLED, random_actions=True)
        algorithm.local_replay_buffer.add(episodes)
        rates: dict[str, float] = {}
        for batch_size in request.batch_sizes:
            learn, before = _Learn(algorithm, batch_size), _gradient_steps(algorithm)
            rates[str(batch_size)] = works.rate(learn, request.seconds)
            assert _gradient_steps(algorithm) - before == learn.calls, "gradient steps are miscounted"
        return rates


class _Learn:
    """A gradient step, as DQN's training_step takes it."""

    def __init__(self, algorithm: DQN, batch_size: int) -> None:
        self._algorithm, self._batch_size = algorithm, batch_size
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        episodes = self._algorithm.local_replay_buffer.sample(
            num_items=self._batch_size, n_step=1, gamma=self._algorithm.config.gamma, sample_episodes=True
        )
        timesteps = {NUM_ENV_STEPS_SAMPLED_LIFETIME: works.FILLED, NUM_AGENT_STEPS_SAMPLED_LIFETIME: works.FILLED}
        self._algorithm.learner_group.update(episodes=episodes, timesteps=timesteps)
        return 1


def collect(request: works.Request) -> dict[str, Any]:
    return {str(lanes): _collect(lanes, request) for lanes in request.lanes}


def _collect(lanes: int, request: works.Request) -> float:
    """The faster of all lanes in the driver's process and half of them in each of two runners' processes."""
    return max(_collect_by(runners, lanes, request) for runners in ((0, 2) if lanes > 1 else (0,)))


def _collect_by(runners: int, lanes: int, request: works.Request) -> float:
    config = _config(epsilon=0.05).env_runners(
        num_env_runners=runners,
        num_envs_per_env_runner=lanes // max(runners, 1),
        rollout_fragment_length=64,
        gym_env_vectorize_mode=COLLECT_VECTORIZATION,
    )
    with _built(config, request.seed) as algorithm:
        return works.rate(_collector(algorithm), request.seconds)


def _collector(algorithm: DQN) -> Callable[[], int]:
    def call() -> int:
        episodes, _ = synchronous_parallel_sample(
            worker_set=algorithm.env_runner_group, concat=True, _uses_new_env_runners=True, _return_metrics=True
        )
        algorithm.local_replay_buffer.add(episodes)
        return sum(len(episode) for episode in episodes)

    return call


if __name__ == "__main__":
    works.main(
        {"solve": solve, "fixed": fixed, "learner": learner, "collect": collect},
        {name: importlib.metadata.version(name) for name in ("ray", "torch", "gymnasium")},
    )
