"""Fixed work: one gradient step of batch 64 per environment step, 20,000 steps after 1,000, CartPole, MLP 128-64.

Example:
  python -m benchmarks.end_to_end --repeats=5

Ours runs as `pipeline.train` does, roles in processes of their own. `tf_agents` is TF-Agents' DQN with Reverb as its
tutorial has it (one environment, PyDriver, ReverbAddTrajectoryObserver), on fewer steps, as it is slow.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from absl import flags

import pipeline
from benchmarks.measure import median, print_result, spread
from pipeline.command import run_command
from pipeline.process import quieten_gym

_STEPS = flags.DEFINE_integer("steps", 20_000, "Gradient steps of one of our runs.", lower_bound=1)
_PEER_STEPS = flags.DEFINE_integer("peer_steps", 1_000, "Gradient steps of TF-Agents' run; 0 leaves it out.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Runs of each.", lower_bound=1)
_SET = flags.DEFINE_multi_string("set", [], "A line of TOML that overrides the config.")

WORK = (
    "replay.samples_per_insert=64",
    "replay.min_size=1_000",
    "learner.batch_size=64",
    "agent.n_step=1",
    "agent.hidden_units=[128, 64]",
    "evaluation.every_steps=1_000_000",
    "stop.environment_steps=0",
)


def ours(steps: int, seed: int) -> float:
    """Gradient steps per second of one run, from the first to the last of them."""
    experiment = pipeline.load("cartpole", (*WORK, f"stop.gradient_steps={steps}", *_SET.value), seed)
    with tempfile.TemporaryDirectory(prefix="reverb-dqn-") as folder:
        summary = pipeline.train(experiment, Path(folder) / "run")
    return summary.gradient_steps_per_second


class TfAgentsTutorial:
    """TF-Agents' DQN with Reverb in one process, every part its own."""

    def __init__(self) -> None:
        quieten_gym()
        import reverb
        import tensorflow as tf
        from tf_agents.agents.dqn import dqn_agent
        from tf_agents.drivers import py_driver
        from tf_agents.environments import suite_gym, tf_py_environment
        from tf_agents.networks import q_network
        from tf_agents.policies import py_tf_eager_policy
        from tf_agents.replay_buffers import reverb_replay_buffer, reverb_utils
        from tf_agents.specs import tensor_spec
        from tf_agents.utils import common

        self._environment = suite_gym.load("CartPole-v1")
        tf_environment = tf_py_environment.TFPyEnvironment(suite_gym.load("CartPole-v1"))
        agent = dqn_agent.DqnAgent(
            tf_environment.time_step_spec(),
            tf_environment.action_spec(),
            q_network=q_network.QNetwork(
                tf_environment.observation_spec(), tf_environment.action_spec(), fc_layer_params=(128, 64)
            ),
            optimizer=tf.keras.optimizers.Adam(1e-3),
            td_errors_loss_fn=common.element_wise_squared_loss,
        )
        agent.initialize()
        signature = tensor_spec.add_outer_dim(tensor_spec.from_spec(agent.collect_data_spec))
        table = reverb.Table(
            "uniform_table",
            max_size=100_000,
            sampler=reverb.selectors.Uniform(),
            remover=reverb.selectors.Fifo(),
            rate_limiter=reverb.rate_limiters.MinSize(1),
            signature=signature,
        )
        server = reverb.Server([table])
        buffer = reverb_replay_buffer.ReverbReplayBuffer(
            agent.collect_data_spec, table_name="uniform_table", sequence_length=2, local_server=server
        )
        observer = reverb_utils.ReverbAddTrajectoryObserver(buffer.py_client, "uniform_table", sequence_length=2)

        def driver(steps: int) -> Any:
            policy = py_tf_eager_policy.PyTFEagerPolicy(agent.collect_policy, use_tf_function=True)
            return py_driver.PyDriver(self._environment, policy, [observer], max_steps=steps)

        self._time_step, _ = driver(1_000).run(self._environment.reset())
        self._driver = driver(1)
        self._samples = iter(buffer.as_dataset(num_parallel_calls=3, sample_batch_size=64, num_steps=2).prefetch(3))
        self._train = common.function(agent.train)

    def run(self, steps: int) -> float:
        """Gradient steps per second of that many more steps."""
        started = time.perf_counter()
        for _ in range(steps):
            self._time_step, _ = self._driver.run(self._time_step)
            experience, _ = next(self._samples)
            self._train(experience)
        return steps / (time.perf_counter() - started)


def main(_: list[str]) -> int:
    """Runs ours and theirs in turn."""
    results: dict[str, list[float]] = {"ours": []}
    tutorial = TfAgentsTutorial() if _PEER_STEPS.value else None
    if tutorial is not None:
        tutorial.run(100)
        results["tf_agents"] = []
    for repeat in range(_REPEATS.value):
        results["ours"].append(ours(_STEPS.value, repeat))
        if tutorial is not None:
            results["tf_agents"].append(tutorial.run(_PEER_STEPS.value))
    for name, values in results.items():
        print(f"{name:10s} {spread(values)} steps/s")
    medians = {f"{name}_steps_per_second": median(values) for name, values in results.items()}
    ratio = {"ratio": round(median(results["ours"]) / median(results["tf_agents"]), 1)} if tutorial else {}
    print_result({**medians, **ratio})
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
