"""The count-based bonus: what counts as one state, and what a visit pays."""

import numpy as np
import pytest

from agents import ArraySpec, Specs
from agents.novelty import CountBonus

CELLS = Specs(ArraySpec((), "int32", (9,)), 2)
VECTOR = Specs(ArraySpec((2,), "float32"), 2)


def test_the_nth_visit_pays_scale_over_the_root_of_n() -> None:
    bonus = CountBonus(CELLS, 0.5, 4.0, seed=0)
    paid = [bonus({"": np.int32([3, 3])}).tolist() for _ in range(2)]
    np.testing.assert_allclose(paid, [[0.5, 0.5 / 2**0.5], [0.5 / 3**0.5, 0.25]])
    assert bonus({"": np.int32([4])}).tolist() == [0.5]


def test_float_states_are_cells_of_their_own_scale_measured_first() -> None:
    random = np.random.default_rng(0)
    scale = np.float32([1.0, 0.01])  # a position and a small velocity count alike
    bonus = CountBonus(VECTOR, 1.0, 2.0, seed=0)
    for _ in range(100):
        assert not bonus({"": (random.normal(size=(10, 2)) * scale).astype(np.float32)}).any()
    for step in np.eye(2, dtype=np.float32):
        here = np.float32([[10.1, 0.101]])
        first = bonus({"": here + 4 * step * scale})
        again = bonus({"": here + 4 * step * scale})
        apart = bonus({"": here + 5 * step * scale})
        assert (first[0], apart[0]) == (1.0, 1.0)
        assert again[0] == pytest.approx(2**-0.5)


def test_many_features_are_counted_by_projections() -> None:
    specs = Specs({"image": ArraySpec((8, 8, 1), "uint8", (255,)), "gear": ArraySpec((), "int32", (3,))}, 2)
    random = np.random.default_rng(1)
    bonus = CountBonus(specs, 1.0, 4.0, seed=0)

    def images(count: int) -> dict[str, np.ndarray]:
        return {"image": random.integers(0, 256, (count, 8, 8, 1)).astype(np.uint8), "gear": np.zeros(count, np.int32)}

    for _ in range(2):  # the scale of the features, then of their projections
        assert not bonus(images(1_000)).any()
    seen = images(50)
    assert (bonus(seen) == 1.0).mean() > 0.9
    assert (bonus(seen) < 1.0).all()
    assert (bonus({**seen, "gear": np.ones(50, np.int32)}) == 1.0).mean() > 0.9


def test_a_constant_feature_is_one_cell() -> None:
    bonus = CountBonus(VECTOR, 1.0, 4.0, seed=0)
    constant = np.float32([[5.0, 1.0]] * 1_000)
    bonus({"": constant})
    assert bonus({"": constant[:2]}).tolist() == [1.0, np.float32(2**-0.5)]


def test_eight_features_that_wander_are_not_new_for_ever_and_what_is_new_still_is() -> None:
    bonus = CountBonus(Specs(ArraySpec((8,), "float32"), 4), 1.0, 4.0, seed=0)
    random, lanes = np.random.default_rng(2), 16
    place = np.zeros((lanes, 8), np.float32)
    paid = []
    for _ in range(2_000):
        place = (0.95 * place + 0.3 * random.normal(size=place.shape)).astype(np.float32)
        paid.append(bonus({"": place}))
    assert (np.array(paid[-100:]) == 1.0).mean() < 0.25
    far = place + 8.0 * random.choice([-1.0, 1.0], size=place.shape).astype(np.float32)
    assert (bonus({"": far}) == 1.0).mean() > 0.9


def test_the_memory_of_the_counts_does_not_grow() -> None:
    bonus = CountBonus(CELLS, 1.0, 4.0, seed=0)
    size = bonus._counts.nbytes
    for start in range(0, 200_000, 10_000):
        bonus({"": np.arange(start, start + 10_000, dtype=np.int32)})
    assert bonus._counts.nbytes == size <= 4 * 2**20
