"""learner.precision: what multiplies in bfloat16, what stays float32, and what it is refused for."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tensorflow as tf
from kinds import FEW, changed, specs_of
from samples import random_sample

from agents import DqnConfig, IqnConfig, build
from agents.mixed_precision import in_bfloat16
from agents.specs import ArraySpec, Specs
from pipeline.acting.network_program import TfliteActor
from pipeline.experiment.config import UsageError
from pipeline.experiment.sections import Experiment, LearnerConfig
from pipeline.experiment.validation import problems
from pipeline.learner.learner import Learner

ROOT = Path(__file__).resolve().parents[3]
IDLE = ("rainbow", "boot_dqn", "q_learning", "dqn noisy")
"""Kinds all of whose layers multiply in float32."""
FIRST = ("dqn", "nature", "minatar")
PICTURE = Specs(ArraySpec((12, 12, 3), "uint8", (255,)), 4, masked=False)
FORMS = {
    "nature": {"image_torso": "nature"},
    "normalized": {"image_torso": "nature", "layer_norm": True},
    "minatar": {"image_torso": "minatar", "residual": True},
    "impala": {"image_torso": "impala", "torso_pooling": "max"},
    "spectral": {"image_torso": "impala", "layer_norm": True, "spectral_norm": "residual"},
}


def tiered(name: str) -> Any:
    return name if name in FIRST else pytest.param(name, marks=pytest.mark.slow)


def learner(config: Any, specs: Specs, precision: str, **more: Any) -> Learner:
    section = LearnerConfig(batch_size=8, steps_per_call=4, loop="plain", precision=precision)
    return Learner(Experiment(agent=config, learner=section), specs, **more)


def compared(config: Any, specs: Specs) -> tuple[Any, Any]:
    """The agent in both precisions, after a look at what has to be equal."""
    mixed = in_bfloat16(lambda: build(config.kind, specs, config, seed=1, open_fields=True))
    plain = build(config.kind, specs, config, seed=1, open_fields=True)
    for one, other in zip(mixed.variables, plain.variables, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    # What acts has the float32 network and is sent these weights by their order.
    for one, other in zip(mixed.acting_model.get_weights(), plain.acting_model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert tf.keras.mixed_precision.global_policy().name == "float32"
    return mixed, plain


@pytest.mark.parametrize("name", [tiered(name) for name in FEW if name not in IDLE])
def test_weights_are_those_of_float32_and_losses_near(name: str) -> None:
    config = FEW[name]
    specs = specs_of(config.kind)
    compared(config, specs)
    sample = random_sample(config, 4, 8, bad=3, specs=specs)
    mixed, plain = (learner(config, specs, precision).learn(sample) for precision in ("bfloat16", "float32"))
    assert mixed.skipped == plain.skipped == (3,)
    assert mixed.loss != plain.loss
    np.testing.assert_allclose(mixed.loss, plain.loss, rtol=0.1, atol=0.02)
    np.testing.assert_allclose(mixed.td_error, plain.td_error, rtol=0.1, atol=0.02)


@pytest.mark.parametrize("form", [tiered(name) for name in FORMS])
def test_pictures_multiply_in_bfloat16_in_every_form(form: str) -> None:
    config = changed(DqnConfig(hidden_units=(16,), dueling=True), FORMS[form])
    mixed, plain = compared(config, PICTURE)
    picture = tf.constant(np.random.default_rng(0).integers(0, 256, (5, 12, 12, 3)), tf.uint8)
    q, exact = (agent.acting_model(picture).numpy() for agent in (mixed, plain))
    assert q.dtype == np.float32
    assert (q != exact).any()
    np.testing.assert_allclose(q, exact, atol=0.05 * np.abs(exact).max())
    convolutions = [each for each in mixed.acting_model.submodules if isinstance(each, tf.keras.layers.Conv2D)]
    assert any(each.compute_dtype == "bfloat16" for each in convolutions)


def test_actors_multiply_in_float32() -> None:
    config, specs = DqnConfig(hidden_units=(32, 32)), Specs(ArraySpec((3,), "float32"), 2, masked=False)
    trained = learner(config, specs, "bfloat16")
    weights = [weight.numpy() for weight in trained.agent.acting_model.weights]
    plain = build("dqn", specs, config, seed=5).acting_model
    plain.set_weights(weights)
    observation = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    (name,) = specs.leaves()
    q = TfliteActor(trained._program, specs, 4, weights).q_values({name: observation})
    np.testing.assert_allclose(q, plain(observation), rtol=1e-5)


REPLICAS = """
import sys
import numpy as np
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
from kinds import FEW, specs_of
from samples import random_sample
from pipeline.experiment.sections import Experiment, LearnerConfig
from pipeline.learner.learner import Learner

config, specs, states = FEW["dqn"], specs_of("dqn"), []
sample = random_sample(config, 4, 8, bad=3, specs=specs)
section = LearnerConfig(batch_size=8, steps_per_call=4, loop="plain", precision="bfloat16")
for devices in (["CPU:0"], ["CPU:0", "CPU:1"]):
    learner = Learner(Experiment(agent=config, learner=section), specs, devices=devices)
    before = learner.agent.acting_model.get_weights()
    learner.learn(sample)
    states.append(learner.agent.acting_model.get_weights())
moved = max(np.abs(new - old).max() for new, old in zip(states[0], before))
print(moved, max(np.abs(one - other).max() for one, other in zip(*states)))
"""


@pytest.mark.slow
def test_replicas_learn_as_one_device_does() -> None:
    # In a process of its own: logical devices have to be configured before TensorFlow starts.
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "support")))
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-c", REPLICAS]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    moved, apart = map(float, done.stdout.split()[-2:])
    assert apart < 0.1 * moved, (apart, moved)  # halves of a sum are rounded by themselves


@pytest.mark.parametrize("name", [name for name in IDLE if name != "q_learning"])
def test_a_network_that_it_would_do_nothing_for_is_refused(name: str) -> None:
    config = FEW[name]
    with pytest.raises(UsageError, match=r"learner\.precision='bfloat16' has no effect: all layers"):
        learner(config, specs_of(config.kind), "bfloat16")
    assert tf.keras.mixed_precision.global_policy().name == "float32"


def test_a_kind_without_hidden_layers_is_refused_before_a_run() -> None:
    experiment = Experiment(agent=FEW["q_learning"], learner=LearnerConfig(precision="bfloat16"))
    assert any("'q_learning' has none" in problem for problem in problems(experiment))


def own_torso(features: tf.Tensor, seeds: Any, activation: str) -> tf.Tensor:
    """A torso of a user's own, of Keras' layers."""
    return tf.keras.layers.Dense(16, activation, kernel_initializer=seeds.he_uniform())(features)


def test_a_torso_of_ones_own_follows() -> None:
    config = DqnConfig(hidden_units=(), torso=f"{__name__}:own_torso")
    mixed, _ = compared(config, Specs(ArraySpec((3,), "float32"), 2, masked=False))
    assert [each.compute_dtype for each in mixed.acting_model.layers if "dense" in each.name][:1] == ["bfloat16"]


def test_fields_take_what_there_is() -> None:
    with pytest.raises(msgspec.ValidationError, match="float16"):
        msgspec.convert({"precision": "float16"}, LearnerConfig)
    assert not [*problems(Experiment(agent=IqnConfig(), learner=LearnerConfig(precision="bfloat16")))]
