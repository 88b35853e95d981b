"""Specs: the environment's interface in plain values."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tf_agents.environments import suite_gym, tf_py_environment
from tf_agents.specs import tensor_spec
from tf_agents.trajectories import time_step, trajectory

import agents
from agents import ArraySpec, Specs

ACTION = tensor_spec.BoundedTensorSpec((), tf.int32, 0, 2)


def specs_of(observation: Any, action: Any = ACTION) -> Specs:
    return Specs.from_tf_agents(time_step.time_step_spec(observation), action)


@pytest.mark.parametrize(
    ("observation", "expected"),
    [
        (tensor_spec.TensorSpec((4,), tf.float32), ArraySpec((4,), "float32")),
        (tensor_spec.BoundedTensorSpec((4,), tf.float32, -1.0, 1.0), ArraySpec((4,), "float32")),
        (tensor_spec.BoundedTensorSpec((8, 8, 3), tf.uint8, 0, 255), ArraySpec((8, 8, 3), "uint8", (255,))),
        (tensor_spec.BoundedTensorSpec((), tf.int32, 0, 4), ArraySpec((), "int32", (4,))),
        (tensor_spec.BoundedTensorSpec((), tf.int64, 0, 15), ArraySpec((), "int64", (15,))),
        # One bound for both entries, then one each.
        (tensor_spec.BoundedTensorSpec((2,), tf.int32, 0, 4), ArraySpec((2,), "int32", (4, 4))),
        (tensor_spec.BoundedTensorSpec((2,), tf.int32, [0, 0], [3, 5]), ArraySpec((2,), "int32", (3, 5))),
        (
            {"b": tensor_spec.TensorSpec((2,), tf.float32), "a": tensor_spec.BoundedTensorSpec((3,), tf.uint8, 0, 7)},
            {"a": ArraySpec((3,), "uint8", (7,)), "b": ArraySpec((2,), "float32")},
        ),
    ],
)
def test_from_tf_agents_takes_observations_of_every_supported_dtype(observation: Any, expected: Any) -> None:
    assert specs_of(observation) == Specs(expected, num_actions=3, masked=False)


@pytest.mark.parametrize("dtype", [tf.int32, tf.int64])
def test_from_tf_agents_counts_the_actions(dtype: tf.DType) -> None:
    action = tensor_spec.BoundedTensorSpec((), dtype, 0, 17)
    assert specs_of(tensor_spec.TensorSpec((1,), tf.float32), action).num_actions == 18


@pytest.mark.parametrize(
    "action",
    [
        tensor_spec.BoundedTensorSpec((), tf.float32, 0.0, 1.0),
        tensor_spec.BoundedTensorSpec((2, 2), tf.int32, 0, 1),
        tensor_spec.BoundedTensorSpec((), tf.int32, 1, 3),
    ],
    ids=["continuous", "a matrix", "not from 0"],
)
def test_from_tf_agents_refuses_other_actions_in_words(action: Any) -> None:
    with pytest.raises(ValueError, match="actions must be one integer from 0"):
        specs_of(tensor_spec.TensorSpec((1,), tf.float32), action)


@pytest.mark.parametrize(
    "observation",
    [
        tensor_spec.TensorSpec((2,), tf.float64),
        {"a": tensor_spec.BoundedTensorSpec((), tf.int16, 0, 4)},
        tensor_spec.BoundedTensorSpec((), tf.int64, 0, 2**31),
    ],
    ids=["float64", "int16", "too many categories"],
)
def test_from_tf_agents_refuses_other_dtypes_in_words(observation: Any) -> None:
    with pytest.raises(ValueError, match="observations must be float32, or uint8, int32 or int64 with bounds from 0"):
        specs_of(observation)


@pytest.mark.parametrize("kind", ["dqn", "q_learning"])
def test_agents_learn_from_the_categories_of_tf_agents_gym_environments(kind: str) -> None:
    environment = tf_py_environment.TFPyEnvironment(suite_gym.load("FrozenLake-v1"))
    specs = Specs.from_tf_agents(environment.time_step_spec(), environment.action_spec())
    agent: Any = agents.build(kind, specs, agents.BUILDERS[kind].config())
    policy, replay = agent.collect_policy, []
    step = environment.reset()
    for _ in range(3):
        action = policy.action(step, policy.get_initial_state(1))
        following = environment.step(tf.cast(action.action, tf.int32))
        replay.append(trajectory.from_transition(step, action, following))
        step = following
    windows = tf.nest.map_structure(lambda *parts: tf.stack(parts[: agent.config.window_length], axis=1), *replay)
    assert np.isfinite(agent.train(windows).loss)


@pytest.mark.parametrize(
    ("observation", "action"),
    [
        (tensor_spec.TensorSpec((3,), tf.uint8), ACTION),
        (tensor_spec.TensorSpec((), tf.int32), ACTION),
        ({"a": {"b": tensor_spec.TensorSpec((3,), tf.float32)}}, ACTION),
        ([tensor_spec.TensorSpec((3,), tf.float32), tensor_spec.TensorSpec((3,), tf.float32)], ACTION),
        (tensor_spec.BoundedTensorSpec((), tf.int32, -2, 3), ACTION),
        (tensor_spec.TensorSpec((3,), tf.float32), tensor_spec.TensorSpec((), tf.int32)),
        (tensor_spec.TensorSpec((3,), tf.float32), [ACTION]),
    ],
    ids=[
        "uint8 without bounds",
        "int32 without bounds",
        "nested",
        "list",
        "categories not from 0",
        "action without bounds",
        "action nest",
    ],
)
def test_from_tf_agents_refuses_what_it_cannot_read_by_value_error(observation: Any, action: Any) -> None:
    with pytest.raises(ValueError, match=r"actions|observations"):
        specs_of(observation, action)


def test_leaves_are_in_the_order_of_their_names() -> None:
    b, a = ArraySpec((1,), "float32"), ArraySpec((2,), "float32")
    assert list(Specs({"b": b, "a": a}, 2).leaves().items()) == [("a", a), ("b", b)]


def test_a_bare_array_is_the_leaf_without_a_name() -> None:
    spec = ArraySpec((1,), "float32")
    assert Specs(spec, 2).leaves() == {"": spec}


@pytest.mark.parametrize(
    "observation", [np.float32([1.0, 2.0]), {"b": np.float32([1.0]), "a": np.uint8([2])}], ids=["array", "dict"]
)
def test_pack_is_the_inverse_of_naming_leaves(observation: Any) -> None:
    if isinstance(observation, dict):
        specs = Specs({name: ArraySpec(leaf.shape, leaf.dtype.name) for name, leaf in observation.items()}, 2)
        assert specs.pack({name: observation[name] for name in specs.leaves()}) == observation
    else:
        assert Specs(ArraySpec((2,), "float32"), 2).pack({"": observation}) is observation


def test_specs_compare_by_value() -> None:
    assert Specs(ArraySpec((2,), "float32"), 2) == Specs(ArraySpec((2,), "float32"), 2)
    assert Specs(ArraySpec((2,), "float32"), 2) != Specs(ArraySpec((2,), "float32"), 2, masked=True)


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        (ArraySpec((10, 10, 4), "uint8"), 1),
        (ArraySpec((10, 10, 4), "uint8", (1, 2)), 1),
        (ArraySpec((2, 3), "int32", (4,)), 6),
        (ArraySpec((), "int32"), 1),
    ],
)
def test_arrays_without_their_largest_values_are_refused_in_words(spec: ArraySpec, wanted: int) -> None:
    with pytest.raises(ValueError, match=f"has to have {wanted} largest"):
        agents.build("dqn", Specs({"seen": spec}, 2), agents.DqnConfig())
