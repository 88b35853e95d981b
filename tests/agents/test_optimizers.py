"""Adam and RAdam: hand-worked updates; tf.keras.optimizers.Adam and a slow loop as the references."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from agents.optimizers import Adam
from agents.radam import RAdam, radam_rectification

SHAPES = [(3, 4), (4,), (4, 2), (2,)]
LOSS = tf.constant(1.0)


def fresh_variables(seed: int = 0) -> list[tf.Variable]:
    random = np.random.default_rng(seed)
    return [tf.Variable(random.normal(size=shape).astype(np.float32)) for shape in SHAPES]


def moments(adam: Adam, name: str) -> np.ndarray:
    return np.concatenate([variable.numpy().ravel() for variable in adam.variables if variable.name.startswith(name)])


def random_gradients(random: np.random.Generator) -> list[tf.Tensor]:
    # From step to step of very different sizes, so that clipping is active in some and not in others.
    size = 10.0 ** random.uniform(-3, 1)
    return [tf.constant(size * random.normal(size=shape), tf.float32) for shape in SHAPES]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"epsilon": 1e-2}, {"epsilon": 1e-2}),
        ({"clip_norm": 0.5}, {"global_clipnorm": 0.5}),
        (
            {"learning_rate_final": 1e-3, "decay_steps": 10},
            {"learning_rate": tf.keras.optimizers.schedules.PolynomialDecay(1e-2, 10, 1e-3)},
        ),
    ],
    ids=["plain", "epsilon", "clipped", "decayed"],
)
def test_adam_is_keras_adam_over_20_steps(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    mine, reference = fresh_variables(), fresh_variables()
    adam = Adam(mine, 1e-2, **ours)
    keras = tf.keras.optimizers.Adam(**{"learning_rate": 1e-2, "epsilon": 1e-7} | theirs)
    random = np.random.default_rng(1)
    for _ in range(20):
        gradients = random_gradients(random)
        adam.apply(gradients, LOSS)
        keras.apply_gradients(zip(gradients, reference, strict=True))
    for one, other, start in zip(mine, reference, fresh_variables(), strict=True):
        np.testing.assert_allclose(one, other, atol=4e-6, rtol=0)  # rounding of 20 steps, in another order
        assert np.abs(one - start).max() > 0.01


def test_first_update_moves_each_weight_by_the_learning_rate_against_its_gradient() -> None:
    # m = 0.1 g and v = 0.001 g^2, corrected to g and g^2: the change is lr * g / |g|.
    weight = tf.Variable([1.0, 1.0, 1.0])
    Adam([weight], 0.1, epsilon=1e-12).apply([tf.constant([5.0, -0.01, 0.0])], LOSS)
    np.testing.assert_allclose(weight, [0.9, 1.1, 1.0], rtol=1e-6)


def test_apply_clips_by_the_norm_over_all_variables_and_returns_the_norm_before() -> None:
    weights = [tf.Variable([0.0]), tf.Variable([[0.0]])]
    adam = Adam(weights, 0.1, clip_norm=1.0)
    norm = adam.apply([tf.constant([3.0]), tf.constant([[4.0]])], LOSS).norm
    assert norm.numpy() == 5.0
    # Clipped to [0.6, 0.8]: the first moment is a tenth of it, the second a thousandth of its square.
    np.testing.assert_allclose(moments(adam, "first_moment"), [0.06, 0.08], rtol=1e-5)
    np.testing.assert_allclose(moments(adam, "second_moment"), [0.00036, 0.00064], rtol=1e-4)


def test_apply_without_clipping_takes_the_gradient_as_it_is() -> None:
    weight = tf.Variable([0.0, 0.0])
    adam = Adam([weight], 0.1, clip_norm=0.0)
    assert adam.apply([tf.constant([300.0, 400.0])], LOSS).norm.numpy() == 500.0
    np.testing.assert_allclose(moments(adam, "first_moment"), [30.0, 40.0], rtol=1e-5)


@pytest.mark.parametrize(
    ("updates", "expected"),
    [(0, 0.01), (5, 0.0055), (10, 0.001), (12, 0.001)],  # 0.01 - 0.009 * updates / 10, then constant
)
def test_learning_rate_decays_linearly_and_stays(updates: int, expected: float) -> None:
    weight = tf.Variable([0.0])
    adam = Adam([weight], 0.01, learning_rate_final=0.001, decay_steps=10)
    for _ in range(updates):
        adam.apply([tf.constant([1.0])], LOSS)
    assert adam.learning_rate().numpy() == pytest.approx(expected, rel=1e-5)


def test_learning_rate_without_decay_steps_is_constant() -> None:
    adam = Adam([tf.Variable([0.0])], 0.01, learning_rate_final=0.001, decay_steps=0)
    for _ in range(3):
        adam.apply([tf.constant([1.0])], LOSS)
    assert adam.learning_rate().numpy() == pytest.approx(0.01)


def test_a_gradient_moves_its_own_variable_alone() -> None:
    variables = fresh_variables()
    before = [variable.numpy() for variable in variables]
    gradients = [tf.zeros(shape) for shape in SHAPES]
    gradients[2] = tf.ones(SHAPES[2])
    Adam(variables, 0.1).apply(gradients, LOSS)
    changed = [bool((variable.numpy() != old).any()) for variable, old in zip(variables, before, strict=True)]
    assert changed == [False, False, True, False]


def test_its_variables_are_its_whole_state() -> None:
    weights, other_weights = fresh_variables(), fresh_variables()
    adam, other = Adam(weights, 1e-2), Adam(other_weights, 1e-2)
    random = np.random.default_rng(2)
    for _ in range(3):
        adam.apply(random_gradients(random), LOSS)
    for target, source in zip([*other.variables, *other_weights], [*adam.variables, *weights], strict=True):
        target.assign(source)
    gradients = random_gradients(random)
    adam.apply(gradients, LOSS)
    other.apply(gradients, LOSS)
    for one, another in zip(weights, other_weights, strict=True):
        np.testing.assert_array_equal(one, another)


@pytest.mark.parametrize(("kind", "compiled"), [(Adam, True), (Adam, False), (RAdam, False)])
@pytest.mark.parametrize(
    ("loss", "poison"),
    [(1.0, np.nan), (1.0, np.inf), (1.0, 1e30), (np.nan, 0.0), (-np.inf, 0.0)],
    ids=["nan", "inf", "a norm that overflows", "loss nan", "loss inf"],
)
def test_an_update_that_is_not_finite_changes_no_bit(
    kind: type[Adam], compiled: bool, loss: float, poison: float
) -> None:
    weights = fresh_variables()
    optimizer = kind(weights, 1e-2, clip_norm=0.5, learning_rate_final=1e-3, decay_steps=10)
    apply = tf.function(optimizer.apply, autograph=False, jit_compile=compiled)
    random = np.random.default_rng(3)
    assert apply(random_gradients(random), LOSS).applied
    before = [variable.numpy() for variable in (*weights, *optimizer.variables)]
    gradients = random_gradients(random)
    gradients[1] += tf.constant([0.0, poison, 0.0, 0.0])
    assert not apply(gradients, tf.constant(loss)).applied
    for variable, value in zip((*weights, *optimizer.variables), before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    assert apply(random_gradients(random), LOSS).applied
    assert optimizer.updates.numpy() == 2
    assert any((variable.numpy() != value).any() for variable, value in zip(weights, before, strict=False))


def test_the_scale_multiplies_the_scheduled_step_size() -> None:
    adam = Adam([tf.Variable([1.0])], 0.01, learning_rate_final=0.001, decay_steps=10)
    adam.learning_rate_scale.assign(0.25)
    assert adam.learning_rate().numpy() == pytest.approx(0.0025)


def slow_radam(gradients: list[float], rate: float, epsilon: float) -> list[float]:
    """Liu et al. 2020, algorithm 2, for one weight that starts at 0, in double precision: its values after each."""
    weight, first, second, values, longest = 0.0, 0.0, 0.0, [], 2.0 / (1.0 - 0.999) - 1.0
    for t, gradient in enumerate(gradients, 1):
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        length = longest - 2.0 * t * 0.999**t / (1.0 - 0.999**t)
        change = rate * first / (1.0 - 0.9**t)
        if length > 4.0:
            rectification = (length - 4.0) * (length - 2.0) * longest / ((longest - 4.0) * (longest - 2.0) * length)
            # Epsilon beside the uncorrected root, as Adam's efficient form has it.
            change *= np.sqrt(rectification) * np.sqrt(1.0 - 0.999**t) / (np.sqrt(second) + epsilon)
        weight -= change
        values.append(weight)
    return values


def test_radam_equals_the_slow_loop() -> None:
    random = np.random.default_rng(4)
    gradients = (10.0 ** random.uniform(-3, 1, 60) * random.normal(size=60)).tolist()
    weight = tf.Variable([0.0])
    radam, found = RAdam([weight], 1e-2, epsilon=1e-5), []
    for gradient in gradients:
        radam.apply([tf.constant([gradient])], LOSS)
        found.append(float(weight.numpy()[0]))
    np.testing.assert_allclose(found, slow_radam(gradients, 1e-2, 1e-5), rtol=2e-4)


def test_the_first_four_updates_of_radam_are_of_the_first_moment_alone() -> None:
    # Of a constant gradient the corrected first moment is that gradient, whatever the second one is.
    weight = tf.Variable([1.0, 1.0, 1.0])
    radam = RAdam([weight], 0.1)
    for _ in range(4):
        radam.apply([tf.constant([0.5, -200.0, 0.0])], LOSS)
    np.testing.assert_allclose(weight, [0.8, 81.0, 1.0], rtol=1e-5)


@pytest.mark.parametrize(
    ("update", "expected"),
    # rho_4 = 3.9975; rho_5 = 4.9960: sqrt(0.9960 * 2.9960 * 1999 / (1995 * 1997 * 4.9960)); 1 in the end.
    [(1, 0.0), (4, 0.0), (5, 0.017312), (10**6, 1.0)],
)
def test_the_rectification_by_hand(update: int, expected: float) -> None:
    found = radam_rectification(tf.constant(update, tf.int64), 0.999).numpy()
    assert found == pytest.approx(expected, rel=1e-3)
