"""Two settings by two seeds each, compared by the area under their curves, from Python.

python examples/compare_settings.py [folder]
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

import pipeline

SETTINGS = {"one step": {"agent.n_step": 1}, "three steps": {"agent.n_step": 3}}
COMMON = {"stop.environment_steps": 12_000, "evaluation.every_steps": 2_000, "evaluation.episodes": 10}


def main(folder: Path) -> None:
    """Runs that are there already are only read: a second call starts at once."""
    for name, setting in SETTINGS.items():
        areas = []
        for seed in range(2):
            path = folder / name.replace(" ", "_") / f"seed-{seed}"
            if not path.exists():
                pipeline.train(pipeline.load("cartpole", [COMMON, setting], seed=seed), path, launcher="inline")
            curve = pipeline.Run(path).curve()
            areas.append(float(np.trapz(curve.y, curve.x) / np.ptp(curve.x)))
        print(f"{name:12s} mean evaluation return over the run: {np.round(areas, 1)}, median {np.median(areas):.1f}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if sys.argv[1:] else tempfile.mkdtemp()))
