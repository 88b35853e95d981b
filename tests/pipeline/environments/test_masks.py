"""Masks of actions, whichever way an environment gives them: obeyed, or refused or a fault by name."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from environments_with_masks import ACTIONS, allowed
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import environments
from pipeline.environments import EnvironmentFault, LaneEnvironment
from pipeline.environments.lanes.contract import MasksIgnored
from pipeline.environments.lanes.masks import MaskReader
from pipeline.experiment.config import UsageError
from pipeline.experiment.sections import EnvironmentConfig

FORMS = ("bool", "list", "int8", "int64", "uint8", "float32", "float64", "added float32", "added float64")


def choosy(vectorization: str = "sync", frame_skip: int = 0, mask_key: str = "", **kwargs: Any) -> EnvironmentConfig:
    return EnvironmentConfig(
        id="ChoosyForTests-v0",
        import_path="environments_with_masks",
        kwargs=kwargs,
        vectorization=vectorization,  # type: ignore[arg-type]
        frame_skip=frame_skip,
        mask_key=mask_key,
    )


@contextmanager
def made(config: EnvironmentConfig, lanes: int = 3, **more: Any) -> Iterator[LaneEnvironment]:
    environment = environments.make(config, lanes, **more)
    try:
        yield environment
    finally:
        environment.close()


def play(environment: LaneEnvironment, steps: int = 14, seed: int = 0) -> None:
    """Takes random allowed actions; masks are compared with what the environment has in mind."""
    random = np.random.default_rng(seed)
    step = environment.reset(seed)
    for _ in range(steps):
        running, seen = ~environment.resetting, step.observation["seen"].astype(int)
        if step.mask is not None:
            expected = np.array([allowed(*row) for row in seen])
            assert step.mask.dtype == np.bool_
            is_given = ~(step.mask.all(axis=1) & (seen[:, 1] == 0))  # at resets there may be none
            assert np.array_equal(step.mask[running & is_given], expected[running & is_given])
        chances = random.random((environment.lanes, ACTIONS))
        step = environment.step(np.where(True if step.mask is None else step.mask, chances, -1.0).argmax(axis=1))
        environment.episode_ends()


@given(
    st.sampled_from(FORMS),
    st.sampled_from(["all", "steps"]),
    st.sampled_from(["info", "action_mask", "legal"]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0, 2, 3]),
    st.integers(0, 900),
)
@settings(max_examples=20, deadline=None)
def test_masks_are_obeyed_in_any_form_and_place(
    form: str, at: str, where: str, shared: bool, own: bool, frame_skip: int, seed: int
) -> None:
    in_part = where != "info"
    form = "int8" if in_part and form == "list" else form
    shared, frame_skip = shared and not (own and not in_part), 0 if own else frame_skip
    config = choosy(
        "vector_entry_point" if own else "sync",
        frame_skip,
        where if in_part else "",
        form=form,
        at="all" if in_part else at,
        where=where,
        shared=shared,
    )
    with made(config) as environment:
        play(environment, seed=seed)
        assert set(environment.specs.leaves()) == {"seen"}
    assert environments.describe(config).masked


@pytest.mark.parametrize("where", ["info", "action_mask"])
def test_masks_are_obeyed_by_asynchronous_lanes(where: str) -> None:
    key = where if where != "info" else ""
    with made(choosy("async", 2, key, form="added float32", where=where, shared=True)) as environment:
        play(environment)


def test_masks_at_some_resets_are_a_fault_where_one_is_missing() -> None:
    with made(choosy(at="first resets")) as environment, pytest.raises(EnvironmentFault, match=r"action_mask.*missing"):
        play(environment)


def test_masks_that_the_run_has_no_place_for_end_it() -> None:
    config = choosy(at="late")
    assert not environments.describe(config).masked
    words = r"step 4: it gives info\['action_mask'\]"
    with made(config, faulty_episodes=1.0, masked=False) as environment, pytest.raises(MasksIgnored, match=words):
        play(environment)


def test_a_run_with_masks_has_some_before_the_first_one() -> None:
    with made(choosy(at="steps"), masked=True) as environment:
        mask = environment.reset(0).mask
        assert mask is not None
        assert mask.all()
        play(environment)


WRONG = {
    "too long": [1, 0, 1, 1],
    "too short": [1, 0],
    "a scalar": 1,
    "nested": [[1, 0, 1]],
    "ragged": [[1, 0], [1]],
    "nothing allowed": [False] * ACTIONS,
    "minus infinity everywhere": [-np.inf] * ACTIONS,
    "another number": [1, 0, 2],
    "a probability": [0.5, 0.5, 0.0],
    "a large negative number": [0.0, -1e9, 0.0],
    "both forms": [1.0, -np.inf, 0.0],
    "infinity": [0.0, np.inf, 0.0],
    "nan": [np.nan, 1.0, 0.0],
    "text": ["yes", "no", "yes"],
    "None among": [True, None, False],
    "complex": [1j, 0, 1],
}


@pytest.mark.parametrize("frame_skip", [0, 2])
@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_a_mask_is_a_fault_that_says_so(name: str, frame_skip: int) -> None:
    words = r"lane \d, step \d: info\['action_mask'\]"
    config = choosy(frame_skip=frame_skip, wrong=WRONG[name])
    with made(config) as environment, pytest.raises(EnvironmentFault, match=words):
        play(environment)


def test_a_part_that_cannot_be_a_mask_is_a_fault_that_names_it() -> None:
    config = choosy(mask_key="legal", where="legal", form="float32", wrong=np.float32([0.5, 1, 1]))
    words = "lane 0, step 3: observation legal is "
    with made(config) as environment, pytest.raises(EnvironmentFault, match=words):
        play(environment)


@pytest.mark.parametrize(
    ("key", "kwargs", "words"),
    [
        ("legal", {}, "no part of a Dict observation; there are 'seen'"),
        ("seen", {}, "one number for each of the 3 actions"),
    ],
)
def test_a_mask_key_that_names_no_mask_is_refused(key: str, kwargs: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        environments.describe(choosy(mask_key=key, **kwargs))


def test_an_observed_mask_that_nobody_would_obey_is_refused_with_what_to_set() -> None:
    with pytest.raises(UsageError, match=r"environment\.mask_key='action_mask'"):
        environments.describe(choosy(where="action_mask"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("action_masks", [True, False, True]),
        ("mask", np.array([1, 0, 1])),
        ("legal_actions", [0, 2]),
        ("avail_actions", np.array([1, 1, 0], np.int8)),
    ],
)
def test_masks_under_another_name_are_refused(name: str, value: Any) -> None:
    config = EnvironmentConfig(
        id="", import_path="environments_with_masks:Elsewhere", kwargs={"name": name, "value": value}
    )
    with pytest.raises(UsageError, match=rf"info\['{name}'\].*action_mask"):
        environments.describe(config)


@pytest.mark.parametrize(("name", "value"), [("masked_reward", 0.5), ("valid", True), ("legal_moves", 12)])
def test_other_words_in_the_info_are_no_masks(name: str, value: Any) -> None:
    config = EnvironmentConfig(
        id="", import_path="environments_with_masks:Elsewhere", kwargs={"name": name, "value": value}
    )
    assert not environments.describe(config).masked


@given(st.lists(st.tuples(st.lists(st.booleans(), min_size=4, max_size=4), st.booleans()), min_size=1, max_size=20))
@settings(max_examples=30, deadline=None)
def test_what_a_lane_has_given_before_says_what_zeros_mean(rows: list[tuple[list[bool], bool]]) -> None:
    """Two lanes in turn, one gives 0 and 1, the other 0 and -inf; each begins with a row that shows it."""
    reader = MaskReader(4, 2)
    for mask, added in [([True, False, False, False], True), ([True, False, False, False], False), *rows]:
        row = np.where(mask, 0.0, -np.inf) if added else np.array(mask, float)
        read, wrong = reader.read(row[np.newaxis], np.array([int(added)]))
        assert not wrong
        assert read[0].tolist() == mask


def test_zeros_that_come_first_are_taken_for_what_is_added_to_logits_if_they_are_floats() -> None:
    read, _ = MaskReader(2, 2).read([np.zeros(2), np.zeros(2, np.int64)], np.arange(2))
    assert read.tolist() == [[True, True], [False, False]]
