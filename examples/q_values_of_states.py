"""A picture of what a policy thinks: CartPole's Q-values over the pole's angle and angular velocity.

python examples/q_values_of_states.py [folder]
"""

import sys
import tempfile
from pathlib import Path

import matplotlib
import numpy as np

import pipeline

matplotlib.use("Agg")
from matplotlib import pyplot


def main(folder: Path) -> None:
    """Trains for a moment, then draws `folder`/q_values.png."""
    experiment = pipeline.load("cartpole", {"stop.environment_steps": 30_000}, seed=2)
    pipeline.train(experiment, folder / "run", launcher="inline")
    angle, velocity = np.meshgrid(np.linspace(-0.2, 0.2, 60), np.linspace(-2, 2, 60))
    still = np.zeros_like(angle)
    states = np.stack([still, still, angle, velocity], axis=-1).reshape(-1, 4).astype(np.float32)
    q_values = pipeline.load_policy(folder / "run").q_values(states)  # [3600, 2], by one call
    advantage = (q_values[:, 1] - q_values[:, 0]).reshape(angle.shape)

    figure, axes = pyplot.subplots(figsize=(5, 4), layout="constrained")
    limit = np.abs(advantage).max()
    drawn = axes.pcolormesh(angle, velocity, advantage, cmap="coolwarm", vmin=-limit, vmax=limit)
    axes.set(xlabel="angle of the pole (rad)", ylabel="its velocity (rad/s)", title="Q(right) - Q(left)")
    figure.colorbar(drawn)
    figure.savefig(folder / "q_values.png", dpi=120)
    print(f"drawn: {folder / 'q_values.png'}; right is better in {(advantage > 0).mean():.0%} of the states")


if __name__ == "__main__":
    main(Path(sys.argv[1] if sys.argv[1:] else tempfile.mkdtemp()))
