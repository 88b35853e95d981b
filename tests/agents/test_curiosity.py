"""Random network distillation: its network by hand and by differences, and what it pays for."""

import numpy as np
import pytest

from agents import ArraySpec, ExplorationConfig, Specs, curiosity
from agents.novelty import CountBonus, bonus_of

VECTOR = Specs(ArraySpec((3,), "float32"), 2)
MIXED = Specs({"image": ArraySpec((4, 4, 1), "uint8", (255,)), "gear": ArraySpec((2,), "int32", (3, 1))}, 2)


def test_forward_by_hand() -> None:
    # relu(1 * 2 + 0 * 1 - 1, 1 * -2 + 0 + 0) = (1, 0), then 1 * 3 + 0 * 5 + 0.5.
    layers = [np.float32([[2, -2], [1, 1]]), np.float32([-1, 0]), np.float32([[3], [5]]), np.float32([0.5])]
    _, hidden, output = curiosity.forward(layers, np.float32([[1, 0]]))
    np.testing.assert_array_equal(hidden, [[1.0, 0.0]])
    np.testing.assert_array_equal(output, [[3.5]])


def test_gradients_are_the_slopes_of_the_loss() -> None:
    random = np.random.default_rng(0)
    layers = [part.astype(np.float64) for part in curiosity.initial_layers((3, 5, 2), random)]
    inputs, goal = random.normal(size=(4, 3)), random.normal(size=(4, 2))

    def loss() -> float:
        return float(0.5 * np.square(curiosity.forward(layers, inputs)[-1] - goal).sum())

    outputs = curiosity.forward(layers, inputs)
    found = curiosity.gradients(layers, outputs, outputs[-1] - goal)
    for part, slope in zip(layers, found, strict=True):
        for position in np.ndindex(part.shape):
            before = part[position]
            part[position] = before + 1e-6
            above = loss()
            part[position] = before - 1e-6
            assert slope[position] == pytest.approx((above - loss()) / 2e-6, abs=1e-5)
            part[position] = before


def test_what_is_seen_often_pays_little_and_what_is_new_pays_more() -> None:
    random = np.random.default_rng(1)
    bonus = curiosity.PredictionBonus(VECTOR, 1.0, seed=0)
    for _ in range(100):
        assert not bonus({"": random.normal(size=(10, 3)).astype(np.float32)}).any()
    here, there = np.float32([[0.5, 0.5, -0.5]] * 4), np.float32([[-3.0, 3.0, 3.0]] * 4)
    first = bonus({"": here}).mean()
    for _ in range(300):
        paid = bonus({"": here})
    assert paid.shape == (4,)
    assert paid.dtype == np.float32
    assert paid.mean() < 0.1 * first
    assert bonus({"": there}).mean() > 10.0 * paid.mean()


def test_a_bonus_is_of_the_size_that_the_config_says_whatever_the_units() -> None:
    means = []
    for unit in (1.0, 1e3):
        random, bonus = np.random.default_rng(2), curiosity.PredictionBonus(VECTOR, 0.5, seed=0)
        paid = [bonus({"": (unit * random.normal(size=(16, 3))).astype(np.float32)}) for _ in range(200)]
        means.append(np.mean(paid[70:]))
    assert means[0] == pytest.approx(means[1], rel=1e-3)
    assert 0.05 < means[0] < 5.0


def test_pictures_and_categories_are_seen() -> None:
    random, bonus = np.random.default_rng(3), curiosity.PredictionBonus(MIXED, 1.0, seed=0)

    def seen(gear: int, lanes: int = 20) -> dict[str, np.ndarray]:
        image = random.integers(0, 256, (lanes, 4, 4, 1)).astype(np.uint8)
        return {"image": image, "gear": np.tile(np.int32([gear, 0]), (lanes, 1))}

    for _ in range(350):
        usual = bonus(seen(gear=1))
    assert bonus(seen(gear=2)).mean() > 1.5 * usual.mean()


def test_the_config_chooses_the_bonus() -> None:
    assert ExplorationConfig().paid_by == ""
    predicted, counted = ExplorationConfig(prediction_bonus=0.1), ExplorationConfig(count_bonus=0.1)
    assert isinstance(bonus_of(predicted, VECTOR, 0), curiosity.PredictionBonus)
    assert isinstance(bonus_of(counted, VECTOR, 0), CountBonus)
    assert predicted.paid_by == "exploration.prediction_bonus"
