"""Runs that begin with the weights of another: which layers are taken, which start anew, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import small_runs
from small_runs import TINY

import pipeline
from pipeline.acting import initial_policy, stored_policies
from pipeline.environments import describe
from pipeline.experiment.config import UsageError, parse
from pipeline.experiment.run_directory import RunDirectory
from pipeline.export import directory
from pipeline.learner.learner import Learner
from pipeline.records import checkpoint
from pipeline.records.counters import Counters

pytestmark = pytest.mark.xdist_group("initial policy")  # one source for all
COMMON = (
    *TINY,
    "evaluation.images=false",
    "evaluation.every_steps=300",
    "replay.min_size=64",
    "replay.samples_per_insert=4",
    "stop.environment_steps=400",
    "agent.hidden_units=[8, 8]",
)
PPO = (
    'agent.kind="ppo"',
    'exploration.strategy="boltzmann"',
    "exploration.temperature=1.0",
    "learner.batch_size=4",
    "learner.steps_per_call=1",
    "replay.samples_per_insert=1.0",
    "replay.min_size=1",
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "run"
    pipeline.train(parse("", COMMON), folder, launcher="inline")
    return folder


def begun(path: Path, *lines: str) -> tuple[Learner, list[str]]:
    """A learner that began with what is at a path, and what started anew."""
    experiment = parse("", (*COMMON, *lines, f'agent.initial_policy="{path}"'))
    learner, counters = Learner(experiment, describe(experiment.environment)), Counters()
    said = initial_policy.begin(experiment, learner, counters)
    assert len(said) == bool(counters.started_anew)
    return learner, counters.started_anew


def test_all_of_the_same_network_is_taken_and_its_target_is_a_copy(source: Path) -> None:
    learner, anew = begun(source)
    best = stored_policies.load(source / "policies" / "best")
    model, target = learner.agent.acting_model, learner.agent._target_q_network  # type: ignore[attr-defined]
    for array, weight, of_target in zip(best.weights, model.weights, target.model.weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), array.numpy())
        np.testing.assert_array_equal(of_target.numpy(), array.numpy())
    moments = [variable for variable in learner.agent.variables if "moment" in variable.name]
    assert moments
    assert not any(variable.numpy().any() for variable in moments)
    assert (anew, learner.gradient_steps) == ([], 0)


WHERE = ("checkpoints/best", "policies/latest", "export")


@pytest.mark.parametrize(
    "where", [where if where in WHERE[:1] else pytest.param(where, marks=pytest.mark.slow) for where in WHERE]
)
def test_each_folder_that_holds_weights_will_do(where: str, source: Path, tmp_path: Path) -> None:
    path = source / where
    if where == "export":
        directory.write(directory.origin(source, "best"), path := tmp_path / "export")
    learner, anew = begun(path)
    if where.startswith("checkpoints"):
        stored = [array for name, array in sorted(checkpoint.Checkpoint(path).learner_state().items())]
        own = [variable.numpy() for variable in learner.agent.variables]
        pairs = [(a, b) for a, b in zip(stored, own, strict=True) if a.shape == (8, 8)]
        np.testing.assert_array_equal(*pairs[0])
    else:
        expected = stored_policies.load(path).weights[0].numpy()
        np.testing.assert_array_equal(learner.agent.acting_model.weights[0].numpy(), expected)
    assert anew == []


def test_another_head_starts_anew_and_the_torso_is_shared(source: Path) -> None:
    learner, anew = begun(source, 'agent.kind="c51"', "agent.num_atoms=11")
    best = stored_policies.load(source / "policies" / "best").weights
    for array, weight in zip(best[:4], learner.agent.acting_model.weights[:4], strict=True):
        np.testing.assert_array_equal(weight.numpy(), array.numpy())
    assert anew == ["narrow_dense 1: kernel [8, 2], bias [2] there, kernel [8, 22], bias [22] here"]


def test_other_observations_leave_the_layers_behind_them(source: Path) -> None:
    learner, anew = begun(source, 'environment.id="Acrobot-v1"')
    best = stored_policies.load(source / "policies" / "best").weights
    np.testing.assert_array_equal(learner.agent.acting_model.weights[2].numpy(), best[2].numpy())
    assert [layer.split(":")[0] for layer in anew] == ["dense 1", "narrow_dense 1"]


def test_what_embeds_fractions_is_not_taken_for_a_hidden_layer(source: Path) -> None:
    # The embedding of 8 cosines into 8 features has the shape of the second hidden layer.
    learner, anew = begun(source, 'agent.kind="iqn"', "agent.embedding_cosines=8")
    best = stored_policies.load(source / "policies" / "best").weights
    weights = [weight.numpy() for weight in learner.agent.acting_model.weights if weight.shape == (8, 8)]
    assert [np.array_equal(weight, best[2].numpy()) for weight in weights].count(True) == 1
    assert anew == ["embedding dense 1: there is none"]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (('environment.id="Acrobot-v1"', "agent.hidden_units=[9]"), r"none of its layers fits.*kernel \[4, 8\]"),
        (('agent.kind="q_learning"', 'environment.id="FrozenLake-v1"'), "none of its layers fits this network"),
        (('agent.initial_policy="/nowhere"',), "'/nowhere': it is no run directory"),
    ],
)
def test_what_cannot_be_begun_from_is_refused_and_nothing_written(
    lines: tuple[str, ...], words: str, source: Path, tmp_path: Path
) -> None:
    common = COMMON[:-1] if "q_learning" in lines[0] else COMMON
    experiment = parse("", (*common, f'agent.initial_policy="{source}"', *lines))
    with pytest.raises(UsageError, match=words) as refused:
        pipeline.train(experiment, tmp_path / "run", launcher="inline")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_a_damaged_checkpoint_is_refused(source: Path, tmp_path: Path) -> None:
    copied = tmp_path / "run"
    shutil.copytree(source, copied, symlinks=True)
    newest = checkpoint.newest(RunDirectory(copied).checkpoints)
    assert newest is not None
    with (newest.path / "learner.msgpack").open("r+b") as file:
        file.seek(200)
        file.write(b"damage")
    with pytest.raises(UsageError, match=r"checkpoint cannot be used: learner\.msgpack is damaged"):
        begun(newest.path)


@pytest.mark.slow
def test_a_run_says_what_started_anew_and_resumes_from_its_own_weights(source: Path, tmp_path: Path) -> None:
    first, run = tmp_path / "first", tmp_path / "run"
    shutil.copytree(source, first, symlinks=True)
    lines = (*COMMON, f'agent.initial_policy="{first}"', "agent.dueling=true")
    summary = pipeline.train(parse("", lines), run, launcher="inline")
    assert summary.started_anew == ["narrow_dense 2: there is none"]
    assert json.loads((run / "summary.json").read_text())["started_anew"] == summary.started_anew
    shutil.rmtree(first)
    stored = checkpoint.newest(RunDirectory(run).checkpoints)
    assert stored is not None
    again = pipeline.train(parse("", (*lines, "stop.environment_steps=800")), run, launcher="inline", resume=True)
    assert again.started_anew == summary.started_anew, "of the run, whatever it goes on from"
    assert again.gradient_steps >= stored.counters.gradient_steps > 0
    with pytest.raises(UsageError, match=r"a run begins with these weights once.*agent\.initial_policy was"):
        pipeline.train(parse("", (*COMMON, "agent.dueling=true")), run, launcher="inline", resume=True)


@pytest.mark.slow
def test_the_command_names_what_starts_anew(source: Path, tmp_path: Path) -> None:
    lines = (*COMMON, f'agent.initial_policy="{source}"', 'agent.kind="qr_dqn"', "agent.normalize_observations=false")
    done = small_runs.train(tmp_path / "run", *lines, "stop.target_return=1e9")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "start anew: narrow_dense 1: kernel [8, 2], bias [2] there, kernel [8, 100]" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "lines",
    [
        PPO,
        ('agent.kind="boot_dqn"', "agent.heads=3", "agent.prior_scale=1.0"),
        ("agent.normalize_observations=true", "agent.layer_norm=true"),
    ],
    ids=["ppo", "boot_dqn", "normalized"],
)
def test_every_sort_of_network_begins_as_a_checkpoint_left_it(lines: tuple[str, ...], tmp_path: Path) -> None:
    first = tmp_path / "first"
    pipeline.train(parse("", (*COMMON, *lines)), first, launcher="inline")
    found = checkpoint.newest(RunDirectory(first).checkpoints)
    assert found is not None
    learner, anew = begun(found.path, *lines)
    assert anew == []
    state = found.learner_state()
    unlike = {"moment", "updates", "gradient_steps"}
    target = getattr(learner.agent, "_target_q_network", None)
    of_target = {id(variable) for variable in getattr(target, "variables", ())}
    for name, variable in learner.named_variables():
        if id(variable) not in of_target and not any(word in name for word in unlike):
            np.testing.assert_array_equal(variable.numpy(), state[name], err_msg=name)
    _, of_policy = begun(first, *lines)
    assert bool(of_policy) == ("ppo" in lines[0]), "a policy has no values of states"


@pytest.mark.slow
def test_a_table_begins_as_another_left_it(tmp_path: Path) -> None:
    lines = (*COMMON[:-1], 'agent.kind="q_learning"', 'environment.id="FrozenLake-v1"')
    pipeline.train(parse("", lines), tmp_path / "first", launcher="inline")
    again = pipeline.train(
        parse("", (*lines, f'agent.initial_policy="{tmp_path / "first"}"')), tmp_path / "run", launcher="inline"
    )
    assert again.started_anew == []
