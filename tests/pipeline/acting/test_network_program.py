"""Acting: TFLite and TensorFlow give the same Q-values, hence the same actions."""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
import tensorflow as tf
from kinds import VARIANTS, observations, scores, specs_of

from agents import BUILDERS, ArraySpec, DqnConfig, ExplorationConfig, Specs, build
from agents.exploration import explore
from agents.networks import value_model
from pipeline.acting import network_program
from pipeline.acting.keras_actor import KerasActor
from pipeline.acting.network_program import TfliteActor, convert, convolves_much, make_actor

OBSERVATIONS: dict[str, Any] = {
    "vector": ArraySpec((4,), "float32"),
    "matrix": ArraySpec((2, 3), "float32"),
    "image": ArraySpec((12, 12, 2), "uint8", (255,)),
    "bits": ArraySpec((6,), "uint8", (1,)),
    "discrete": ArraySpec((), "int32", (4,)),
    "multi_discrete": ArraySpec((2,), "int32", (1, 4)),
    "dict": {
        "camera": ArraySpec((8, 8, 1), "uint8", (255,)),
        "gear": ArraySpec((), "int32", (4,)),
        "a/speed": ArraySpec((2,), "float32"),
    },
}
LANES = 5


def observe(specs: Specs, lanes: int, seed: int = 0) -> dict[str, Any]:
    """Random observations by leaf name."""
    random = np.random.default_rng(seed)
    observation = {}
    for name, spec in specs.leaves().items():
        shape = (lanes, *spec.shape)
        if spec.dtype == "float32":
            observation[name] = random.normal(size=shape).astype(np.float32)
        else:
            largest = np.broadcast_to(
                np.array(spec.maximum).reshape(spec.shape or ()) if spec.dtype == "int32" else spec.maximum[0], shape
            )
            observation[name] = random.integers(0, largest + 1).astype(spec.dtype)
    return observation


def of_keras(model: Any, specs: Specs, observation: dict[str, Any]) -> Any:
    return model(specs.pack({name: tf.constant(array) for name, array in observation.items()})).numpy()


def random_weights(model: Any, seed: int) -> list[Any]:
    random = np.random.default_rng(seed)
    return [(random.normal(size=weight.shape) * 0.2).astype(np.float32) for weight in model.weights]


NETWORKS = [(kind, number % 2 == 0) for number, kind in enumerate(OBSERVATIONS)] + [("vector", False)]


@pytest.fixture(scope="module", params=NETWORKS, ids=str)
def network(request: pytest.FixtureRequest) -> Any:
    """Specs, model, converted program and configuration of a network."""
    kind, dueling = request.param
    specs = Specs(OBSERVATIONS[kind], 3)
    config = DqnConfig(hidden_units=(16, 8), dueling=dueling)
    model = value_model(specs, config, None, seed=1)
    program = convert(model, specs)
    assert program
    return specs, model, program, config


def test_tflite_gives_the_q_values_of_keras(network: Any) -> None:
    specs, model, program, _ = network
    actor = TfliteActor(program, specs, LANES, model.get_weights())
    for seed in range(3):
        observation = observe(specs, LANES, seed)
        np.testing.assert_allclose(actor.q_values(observation), of_keras(model, specs, observation), atol=1e-5)


def test_new_weights_act_from_the_next_call_on(network: Any) -> None:
    specs, model, program, _ = network
    observation, before = observe(specs, LANES), model.get_weights()
    actor = TfliteActor(program, specs, LANES, before)
    first = actor.q_values(observation)
    weights = random_weights(model, 3)
    actor.set_weights(weights)
    second = actor.q_values(observation)
    model.set_weights(weights)
    expected = of_keras(model, specs, observation)
    model.set_weights(before)
    np.testing.assert_allclose(second, expected, atol=1e-5)
    assert not np.allclose(first, second, atol=1e-2)
    actor.set_weights(before)
    assert np.array_equal(actor.q_values(observation), first)


def test_both_actors_choose_the_same_actions_from_one_random_stream(network: Any) -> None:
    specs, model, program, config = network
    weights = random_weights(model, 5)
    actors = [TfliteActor(program, specs, LANES, weights), KerasActor(config, specs, LANES, weights)]
    for strategy in ("epsilon_greedy", "boltzmann"):
        exploration = ExplorationConfig(strategy=strategy)
        streams = [np.random.default_rng(2), np.random.default_rng(2)]
        for seed in range(20):
            observation = observe(specs, LANES, seed)
            scores = [actor.q_values(observation) for actor in actors]
            np.testing.assert_allclose(scores[0], scores[1], atol=1e-5)
            mask = np.random.default_rng(seed).random((LANES, 3)) < 0.5
            mask[:, 1] = True
            one, other = (
                explore(exploration, score, 0.3, stream, mask) for score, stream in zip(scores, streams, strict=True)
            )
            assert np.array_equal(one, other)


def test_the_number_of_lanes_does_not_change_q_values(network: Any) -> None:
    specs, model, program, _ = network
    weights = model.get_weights()
    observation = observe(specs, LANES)
    together = TfliteActor(program, specs, LANES, weights).q_values(observation)
    alone = TfliteActor(program, specs, 1, weights)
    for lane in range(LANES):
        one = alone.q_values({name: array[lane : lane + 1] for name, array in observation.items()})
        np.testing.assert_allclose(one[0], together[lane], atol=1e-5)


def test_threads_do_not_change_q_values(network: Any) -> None:
    specs, model, program, _ = network
    observation = observe(specs, LANES)
    one, two = (
        TfliteActor(program, specs, LANES, model.get_weights(), threads).q_values(observation) for threads in (1, 2)
    )
    np.testing.assert_allclose(one, two, atol=1e-6)


def test_q_values_of_an_earlier_call_stay(network: Any) -> None:
    specs, model, program, _ = network
    actor = TfliteActor(program, specs, LANES, model.get_weights())
    first = actor.q_values(observe(specs, LANES, 0))
    kept = first.copy()
    actor.q_values(observe(specs, LANES, 1))
    assert np.array_equal(first, kept)


def test_the_acting_model_of_every_agent_kind_converts() -> None:
    specs = Specs(OBSERVATIONS["vector"], 3, masked=True)
    config = DqnConfig(hidden_units=(8,))
    model = build(config.kind, specs, config, seed=4).acting_model
    observation = observe(specs, LANES)
    actor = TfliteActor(convert(model, specs), specs, LANES, [weight.numpy() for weight in model.weights])
    np.testing.assert_allclose(actor.q_values(observation), of_keras(model, specs, observation), atol=1e-5)


class Inverses(tf.keras.layers.Layer):
    """Something that TFLite has no kernel for."""

    def call(self, inputs: Any) -> Any:
        square = tf.linalg.inv(tf.eye(2) + inputs[:, :2, None] * inputs[:, None, :2])
        return tf.concat([inputs, tf.reshape(square, (-1, 4))], axis=1)


def test_a_network_that_tflite_cannot_take_converts_to_nothing() -> None:
    specs = Specs(OBSERVATIONS["vector"], 3)
    inputs = tf.keras.Input((4,))
    model = tf.keras.Model(inputs, tf.keras.layers.Dense(3)(Inverses()(inputs)))
    assert convert(model, specs) == b""


def test_a_mistake_of_ours_in_the_conversion_is_not_hidden() -> None:
    specs = Specs(OBSERVATIONS["vector"], 3)
    model = value_model(Specs(OBSERVATIONS["matrix"], 3), DqnConfig(hidden_units=()), None, seed=0)
    with pytest.raises(ValueError, match="shape"):
        convert(model, specs)


def test_without_a_program_keras_acts() -> None:
    specs, config = Specs(OBSERVATIONS["vector"], 3), DqnConfig(hidden_units=(8,))
    model = value_model(specs, config, None, seed=1)
    weights, program = model.get_weights(), convert(model, specs)
    assert isinstance(make_actor(config, specs, LANES, b"", weights), KerasActor)
    assert isinstance(make_actor(config, specs, LANES, program, weights), network_program.TfliteActor)


@pytest.mark.parametrize("kind", ["dqn", "iqn", "r2d2", "ppo"])
@pytest.mark.parametrize(
    ("shape", "torso", "through_tensorflow"),
    [((84, 84, 4), "nature", True), ((84, 84, 4), "impala", True), ((10, 10, 4), "minatar", False)],
)
def test_large_convolutions_act_through_tensorflow(
    kind: str, shape: tuple[int, ...], torso: Any, through_tensorflow: bool
) -> None:
    specs = Specs(ArraySpec(shape, "uint8", (255,)), 3)
    config = msgspec.structs.replace(BUILDERS[kind].config(), image_torso=torso, hidden_units=(16,))
    assert convolves_much(build(kind, specs, config).acting_model) is through_tensorflow
    assert not convolves_much(build(kind, Specs(ArraySpec((84,), "float32"), 3), config).acting_model)


def test_an_actor_through_tensorflow_keeps_to_its_threads(run_python: Callable[..., str]) -> None:
    printed = run_python("""
        import numpy as np
        from agents import ArraySpec, DqnConfig, Specs
        from pipeline.acting.network_program import make_actor
        specs, config = Specs(ArraySpec((2,), "float32"), 2), DqnConfig(hidden_units=())
        weights = [np.array([[1, 2], [3, 4]], np.float32), np.array([5, 6], np.float32)]
        actor = make_actor(config, specs, 1, b"", weights, threads=1)
        print(actor.q_values({"": np.array([[1, 1]], np.float32)}).tolist())
        import tensorflow as tf
        print(tf.config.threading.get_intra_op_parallelism_threads())
    """)
    assert printed.splitlines() == ["[[9.0, 12.0]]", "1"]


def test_keras_takes_new_weights() -> None:
    specs, config = Specs(OBSERVATIONS["dict"], 3), DqnConfig(hidden_units=(8,))
    model = value_model(specs, config, None, seed=1)
    actor = KerasActor(config, specs, LANES, model.get_weights())
    weights = random_weights(model, 1)
    actor.set_weights(weights)
    model.set_weights(weights)
    observation = observe(specs, LANES)
    np.testing.assert_allclose(actor.q_values(observation), of_keras(model, specs, observation), atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_kind_acts_through_tflite_as_through_keras(variant: str) -> None:
    config = VARIANTS[variant]
    specs = specs_of(config.kind)
    agent = build(config.kind, specs, config, seed=3)
    program = convert(agent.acting_model, specs, agent.noise_units + config.state_units)
    weights = agent.acting_model.get_weights()
    assert program
    observation, _ = observations(specs, (LANES,), np.random.default_rng(0))
    arrays = {"": observation.numpy()}
    fast, slow = make_actor(config, specs, LANES, program, weights), make_actor(config, specs, LANES, b"", weights)
    expected = scores(agent, observation)
    np.testing.assert_allclose(fast.q_values(arrays), expected, atol=1e-5)
    np.testing.assert_allclose(slow.q_values(arrays), expected, atol=1e-5)
    if config.remembers:  # what was seen before counts until a lane's state is set back
        again, other = fast.q_values(arrays), slow.q_values(arrays)
        assert np.abs(again - expected).max() > 1e-3
        np.testing.assert_allclose(again, other, atol=1e-5)
        fast.state[:2] = 0.0
        np.testing.assert_allclose(fast.q_values(arrays)[:2], expected[:2], atol=1e-5)
        return

    one, same, other = (fast.q_values(arrays, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_allclose(one, slow.q_values(arrays, np.random.default_rng(1)), atol=1e-4)
    np.testing.assert_array_equal(one, same)
    assert (agent.noise_units > 0) == bool((one != other).any())
    np.testing.assert_allclose(fast.q_values(arrays), expected, atol=1e-5)  # without noise again
