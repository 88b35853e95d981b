"""Trains CartPole, scores the policy and acts with it: the whole way from a config to an action.

python examples/train_and_act.py [folder]
"""

import sys
import tempfile
from pathlib import Path

import gymnasium

import pipeline


def main(folder: Path) -> None:
    """Everything of the run is in `folder`/cartpole afterwards."""
    experiment = pipeline.load("cartpole", {"agent.hidden_units": [64, 64], "stop.environment_steps": 100_000}, seed=1)
    summary = pipeline.train(experiment, folder / "cartpole", launcher="inline")
    print(f"ended by {summary.stop_reason} after {summary.environment_steps} environment steps")

    scored = pipeline.evaluate(folder / "cartpole", episodes=20, seed=7)
    print(f"20 other episodes: {scored.returns.mean():.1f} on average, {scored.returns.min():.0f} at least")

    policy = pipeline.load_policy(folder / "cartpole")
    environment = gymnasium.make("CartPole-v1")
    observation, _ = environment.reset(seed=11)
    total, is_over = 0.0, False
    while not is_over:
        observation, reward, terminated, truncated, _ = environment.step(policy.act(observation))
        total, is_over = total + float(reward), terminated or truncated
    print(f"an episode by hand: {total:.0f}; Q-values of its last observation: {policy.q_values(observation).round(1)}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if sys.argv[1:] else tempfile.mkdtemp()))
