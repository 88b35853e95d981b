"""Runs that have a policy and have learned nothing: random weights, saved as an evaluator saves them."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agents import build
from pipeline import environments
from pipeline.acting import network_program, policy_files
from pipeline.acting.frame_stacks import stacked
from pipeline.acting.policy_files import Policy
from pipeline.experiment.config import dump, parse
from pipeline.experiment.sections import Experiment
from pipeline.messages.contents import Array


def untrained_run(run_dir: Path, *lines: str, seed: int = 0, through_tensorflow: bool = False) -> Experiment:
    """Makes a run directory with `policies/best`; with `through_tensorflow` its program is empty."""
    experiment = parse("", lines)
    specs = stacked(environments.describe(experiment.environment), experiment.environment.frame_stack)
    agent = build(experiment.agent.kind, specs, experiment.agent)
    random = np.random.default_rng(seed)
    arrays = tuple(Array.of(_drawn(weight.name, weight.shape, random)) for weight in agent.acting_model.weights)
    further = agent.noise_units + experiment.agent.state_units
    program = b"" if through_tensorflow else network_program.convert(agent.acting_model, specs, further)
    policy_files.save(Policy(program, arrays, 1_000, 100, 12.5), run_dir / "policies" / "best")
    (run_dir / "config.toml").write_text(dump(experiment))
    return experiment


def _drawn(name: str, shape: tuple[int, ...], random: np.random.Generator) -> NDArray[np.float32]:
    """Weights of the inputs' scale; the variances and counts of a normalisation are positive."""
    if name.partition(":")[0].rpartition("/")[2] in ("variance", "count"):
        return np.asarray(0.5 + random.random(shape), np.float32)
    fan_in = np.prod(shape[:-1])
    return np.asarray(random.standard_normal(shape) / np.sqrt(fan_in), np.float32)
