"""`pipeline.load_policy` and `pipeline.evaluate` choose and score as the evaluations of a run do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector.utils import batch_space, iterate
from tiers import tiered
from untrained import untrained_run

import pipeline
from agents.dimensions import begins as begins_of
from agents.exploration import greedy
from pipeline.acting import stored_policies
from pipeline.environments.interfaces import action_spaces
from pipeline.environments.lanes.spaces import first_action, leaf_readers
from pipeline.evaluator.evaluation import play
from pipeline.evaluator.evaluator import PolicyActor
from pipeline.export import directory
from pipeline.export.interface import unshielded_spaces

SMALL = "agent.hidden_units=[8]"
LANES, STEPS = 5, 4


def observing(space: str, *lines: str, masks: bool = True) -> tuple[str, ...]:
    arguments = f"environment.kwargs={{kind='{space}', masks={str(masks).lower()}}}"
    return ("environment.id=''", "environment.import_path='environments_for_tests:Observing'", arguments, SMALL, *lines)


CASES = {
    "float": (SMALL,),
    "actions from 5": ("environment.id=''", "environment.import_path='environments_for_tests:ShiftedActions'", SMALL),
    "image, dueling": observing("image", "agent.image_torso='minatar'"),
    "categories from elsewhere": observing("multi_discrete_from"),
    "one category from elsewhere, stacked": observing("discrete_from", "environment.frame_stack=3"),
    "dict, stacked and recurrent": observing(
        "dict", "environment.frame_stack=2", "agent.kind='r2d2'", "agent.lstm_units=4"
    ),
    "tuple": observing("tuple"),
    "nested": observing("nested"),
    "dimensions from elsewhere": (
        "environment.id=''",
        "environment.import_path='environments_of_dimensions:Dials'",
        "environment.kwargs={form='from elsewhere', masks='parts'}",
        SMALL,
    ),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The run of a case, made once."""
    folder, runs = tmp_path_factory.mktemp("runs"), dict[str, Path]()

    def make(case: str) -> Path:
        if case not in runs:
            runs[case] = folder / str(len(runs))
            untrained_run(runs[case], *CASES[case])
        return runs[case]

    return make


@pytest.mark.parametrize("case", tiered(CASES, ("actions from 5", "dict, stacked and recurrent")))
def test_it_acts_as_the_evaluator_does(made: Callable[[str], Path], case: str) -> None:
    run = made(case)
    exported = directory.of_run(run, "best")
    spaces = unshielded_spaces(exported.experiment)
    readers, random = leaf_readers(spaces.observation), np.random.default_rng(0)
    actor = PolicyActor(exported.experiment, exported.interface.specs, exported.policy, LANES)
    policy, ones = pipeline.load_policy(run), [pipeline.load_policy(run) for _ in range(LANES)]
    batches = batch_space(spaces.observation, LANES)
    batches.seed(0)
    begins = np.ones(LANES, np.bool_)
    for _ in range(STEPS):
        batch = batches.sample()
        mask = None
        if exported.interface.masked:
            mask = random.random((LANES, policy.num_actions)) < 0.5
            mask[:, begins_of(exported.interface.action_sizes or (0,))] = True
        expected = actor.scores({leaf: read(batch) for leaf, read in readers.items()}, begins).copy()
        sizes = exported.interface.action_sizes
        best = greedy(expected, mask, sizes)
        best = best + (action_spaces.starts_of(spaces.action) if sizes else first_action(spaces.action))
        np.testing.assert_allclose(policy.q_values(batch), expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(policy.act(batch, mask), best)
        for lane, one in enumerate(iterate(batches, batch)):
            np.testing.assert_allclose(ones[lane].q_values(one), expected[lane], rtol=1e-5, atol=1e-6)
            action = ones[lane].act(one, None if mask is None else mask[lane])
            assert isinstance(action, np.ndarray if sizes else int)
            assert np.array_equal(action, best[lane])
        begins = random.random(LANES) < 0.4
        policy.reset(begins)
        for lane in np.flatnonzero(begins):
            ones[lane].reset()


def test_a_recurrent_policy_forgets_when_it_is_told_to(made: Callable[[str], Path]) -> None:
    run = made("dict, stacked and recurrent")
    policy, space = pipeline.load_policy(run), unshielded_spaces(directory.of_run(run, "best").experiment).observation
    space.seed(1)
    one, other = space.sample(), space.sample()
    mask = np.ones(policy.num_actions, np.bool_)
    fresh = policy.q_values(one)
    policy.act(other, mask)
    assert not np.allclose(policy.q_values(one), fresh)
    policy.reset()
    np.testing.assert_array_equal(policy.q_values(one), fresh)
    batch = batch_space(space, 3).sample()
    with pytest.raises(pipeline.UsageError, match=r"call reset\(\) first"):
        policy.q_values(batch)
    with pytest.raises(pipeline.UsageError, match="the batches had 1 rows"):
        policy.reset([True, False])


@pytest.mark.parametrize(
    ("observation", "mask", "words"),
    [
        (np.zeros(3, np.float32), None, "observation is of shape (3,): it is (4,), or ('B', 4) of a batch"),
        (np.zeros((2, 5, 4), np.float32), None, "observation is of shape (2, 5, 4)"),
        (np.zeros((0, 4), np.float32), None, "observation is of shape (0, 4)"),
        ([[0.0] * 4, [0.0] * 3], None, "observation"),
        ("abcd", None, "observation is of dtype"),
        (None, None, "observation is of dtype object"),
        ({"a": np.zeros(4)}, None, "observation is of dtype object"),
        (np.zeros(4, np.float32), [True], "mask is of shape (1,): it is (2,)"),
        (np.zeros((3, 4), np.float32), [True, True], "mask is of shape (2,): it is (3, 2)"),
        (np.zeros(4, np.float32), [[True], [True, False]], "mask is no array: it is (2,)"),
        (np.zeros(4, np.float32), [0.5, 1.0], "mask: True or 1"),
        (np.zeros(4, np.float32), [False, False], "mask: row 0: no action is allowed"),
    ],
)
def test_other_observations_are_refused(made: Callable[[str], Path], observation: Any, mask: Any, words: str) -> None:
    with pytest.raises(pipeline.UsageError) as caught:
        pipeline.load_policy(made("float")).act(observation, mask)
    assert words in str(caught.value)


def test_parts_that_are_missing_or_beyond_their_categories_are_named(made: Callable[[str], Path]) -> None:
    policy = pipeline.load_policy(made("categories from elsewhere"))
    space = unshielded_spaces(policy.experiment).observation
    beyond = np.asarray(space.sample()) + 100
    with pytest.raises(pipeline.UsageError, match="is not in"):
        policy.q_values(beyond)
    with pytest.raises(pipeline.UsageError, match="mask is missing"):
        policy.act(space.sample())
    policy = pipeline.load_policy(made("nested"))
    with pytest.raises(pipeline.UsageError, match=r"has no part|should have the part"):
        policy.q_values({"x": 1.0})


def test_lists_and_other_floats_are_taken(made: Callable[[str], Path]) -> None:
    policy = pipeline.load_policy(pipeline.Run(made("float")))
    expected = policy.q_values(np.full(4, 0.25, np.float32))
    np.testing.assert_array_equal(policy.q_values([0.25] * 4), expected)
    np.testing.assert_array_equal(policy.q_values(np.full((1, 4), 0.25))[0], expected)
    assert policy.environment_steps == 1_000
    assert (policy.gradient_steps, policy.mean_return) == (100, 12.5)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda run: pipeline.load_policy(run.parent), "holds no run"),
        (lambda run: pipeline.load_policy(run, policy="last"), "policy is 'best' or 'latest'"),
        (lambda run: pipeline.load_policy(run, policy="latest"), "no policy in"),
        (lambda run: pipeline.load_policy(3), "run is the path"),
        (lambda run: pipeline.evaluate(run.parent), "holds no run"),
        (lambda run: pipeline.evaluate(""), "run is the path"),
        (lambda run: pipeline.evaluate(run, policy="worst"), "policy is 'best' or 'latest'"),
        (lambda run: pipeline.evaluate(run, episodes=0), "episodes is a whole number of at least 1"),
        (lambda run: pipeline.evaluate(run, seed=-1), "seed is a whole number"),
        (lambda run: pipeline.evaluate(run, seed=1.5), "seed is a whole number"),
    ],
)
def test_mistakes_are_said_in_a_line(made: Callable[[str], Path], ask: Callable[[Path], Any], words: str) -> None:
    with pytest.raises(pipeline.UsageError) as caught:
        ask(made("float"))
    assert words in str(caught.value)


def test_an_evaluation_is_the_runs_own(made: Callable[[str], Path]) -> None:
    run = made("float")
    found = pipeline.evaluate(run, episodes=7, seed=3)
    expected = play(pipeline.Run(run).experiment(), stored_policies.load(run / "policies" / "best"), 7, 3)
    assert found.returns.tolist() == expected.returns
    assert found.lengths.tolist() == expected.lengths
    assert found.mean_return == np.mean(expected.returns)
    assert found.std_return == np.std(expected.returns)
    assert (found.environment_steps, found.gradient_steps, found.unfinished) == (1_000, 100, 0)


def test_a_policy_in_gymnasiums_own_loop_needs_no_tensorflow(
    made: Callable[[str], Path], run_python: Callable[..., str]
) -> None:
    """The loop of everybody's tutorial, and an evaluation: neither imports TensorFlow or Reverb."""
    code = """
    import sys
    import gymnasium, pipeline

    policy, environment = pipeline.load_policy(sys.argv[1]), gymnasium.make("CartPole-v1")
    observation, _ = environment.reset(seed=0)
    total, done = 0.0, False
    while not done:
        observation, reward, terminated, truncated, _ = environment.step(policy.act(observation))
        total, done = total + reward, terminated or truncated
    pipeline.evaluate(sys.argv[1], episodes=2)
    print(total > 0, [name for name in ("tensorflow", "reverb", "tf_agents") if name in sys.modules])
    """
    assert run_python(code, str(made("float"))).strip() == "True []"


def test_an_export_acts_as_the_run_does(made: Callable[[str], Path], tmp_path: Path) -> None:
    run, out = made("float"), tmp_path / "out"
    directory.write(directory.origin(run, "best"), out)
    observation = gymnasium.make("CartPole-v1").observation_space.sample()
    np.testing.assert_array_equal(
        pipeline.load_policy(out).q_values(observation), pipeline.load_policy(run).q_values(observation)
    )
    assert pipeline.evaluate(out, episodes=2).returns.tolist() == pipeline.evaluate(run, episodes=2).returns.tolist()
    for ask in (pipeline.load_policy, pipeline.evaluate):
        with pytest.raises(pipeline.UsageError, match="is an export"):
            ask(out, policy="latest")
