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

    bonus(images(1_000))
    seen = images(50)
    assert (bonus(seen) == 1.0).mean() > 0.9
    assert (bonus(seen) < 1.0).all()
    assert (bonus({**seen, "gear": np.ones(50, np.int32)}) == 1.0).mean() > 0.9


def test_a_constant_feature_is_one_cell() -> None:
    bonus = CountBonus(VECTOR, 1.0, 4.0, seed=0)
    constant = np.float32([[5.0, 1.0]] * 1_000)
    bonus({"": constant})
    assert bonus({"": constant[:2]}).tolist() == [1.0, np.float32(2**-0.5)]
