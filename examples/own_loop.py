"""An agent in a loop of one's own, without the pipeline: gymnasium, a list as replay, and `agent.train`.

python examples/own_loop.py
"""

import collections
import random

import gymnasium
import numpy as np
import tensorflow as tf
from tf_agents.trajectories import StepType, Trajectory, time_step

import agents

STEPS, BATCH = 3_000, 64


def main() -> None:
    """Double DQN on CartPole, one environment, one gradient step every second step."""
    environment = gymnasium.make("CartPole-v1")
    specs = agents.Specs(agents.ArraySpec((4,), "float32"), num_actions=2)
    config = agents.DqnConfig(hidden_units=(64, 64), learning_rate=1e-3, target_update_period=100)
    agent = agents.build("dqn", specs, config, epsilon=0.1, seed=1)
    train, act = tf.function(agent.train), tf.function(agent.collect_policy.action)

    replay: collections.deque[Trajectory] = collections.deque(maxlen=10_000)  # windows of two frames
    returns, total = [], 0.0
    observation, _ = environment.reset(seed=1)
    for step in range(STEPS):
        action = int(act(time_step.restart(tf.constant(observation[None]), 1)).action[0])
        following, reward, terminated, truncated, _ = environment.step(action)
        replay.append(window(observation, action, float(reward), following, terminated))
        observation, total = following, total + float(reward)
        if terminated or truncated:
            returns.append(total)
            total, (observation, _) = 0.0, environment.reset()
        if len(replay) >= 500 and step % 2 == 0:
            drawn = random.sample(replay, BATCH)
            train(tf.nest.map_structure(lambda *leaves: tf.stack(leaves), *drawn))
    print(
        f"{len(returns)} episodes: the first ten {np.mean(returns[:10]):.0f}, the last ten {np.mean(returns[-10:]):.0f}"
    )


def window(observation: np.ndarray, action: int, reward: float, following: np.ndarray, is_end: bool) -> Trajectory:
    """A transition as two frames, as TF-Agents has them; the second frame's action and reward are not read."""
    middle, last = int(StepType.MID), int(StepType.LAST)
    return Trajectory(
        step_type=np.array([middle, last if is_end else middle], np.int32),
        observation=np.stack([observation, following]).astype(np.float32),
        action=np.array([action, 0], np.int64),
        policy_info=(),
        next_step_type=np.array([last if is_end else middle, middle], np.int32),
        reward=np.array([reward, 0.0], np.float32),
        discount=np.array([0.0 if is_end else 1.0, 1.0], np.float32),
    )


if __name__ == "__main__":
    main()
