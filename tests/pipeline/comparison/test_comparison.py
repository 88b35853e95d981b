"""Groups of runs, their names, and their curves beside each other."""

import tomllib
from pathlib import Path

import numpy as np
import pytest
from event_files import write
from hypothesis import given
from hypothesis import strategies as st

from pipeline.comparison import bounds, comparison, curves, figures, groups
from pipeline.comparison.text_tables import aligned
from pipeline.experiment.config import UsageError, dump, parse
from pipeline.experiment.run_directory import RunDirectory

TAG = curves.MEAN_RETURN


def make_run(path: Path, *values: float, lines: tuple[str, ...] = (), seed: int = 0) -> RunDirectory:
    """A run with an evaluation every 100 environment steps."""
    run = RunDirectory(path)
    points = [(float(index), 100 * index, {TAG: value}) for index, value in enumerate(values, start=1)]
    write(run, "evaluator", *points)
    run.config.write_text(dump(parse("", lines, seed)))
    return run


@given(st.lists(st.fixed_dictionaries({"agent.kind": st.sampled_from("abc"), "x": st.integers(0, 2),
                                       "y": st.booleans(), "seed": st.integers(0, 9)}), min_size=1))  # fmt: skip
def test_groups_differ_in_nothing_but_their_seed(configs: list[dict[str, object]]) -> None:
    found = groups.group(configs)
    same: dict[tuple[object, ...], list[int]] = {}
    for index, config in enumerate(configs):
        same.setdefault((config["agent.kind"], config["x"], config["y"]), []).append(index)
    assert sorted(found.members.values()) == sorted(same.values())
    for name, members in found.members.items():
        words = dict(word.split("=") for word in name.split(", "))
        for index, config in enumerate(configs):
            fits = all(groups.text(config[key]) == value for key, value in words.items())
            assert fits == (index in members), "a name is true of its own runs alone"


@pytest.mark.parametrize(
    ("changes", "names", "unnamed"),
    [
        (((), ()), ["agent.kind=dqn"], []),
        ((("replay.port=2000", "replay.private='off'"), ()), ["agent.kind=dqn"], []),
        ((("agent.kind='c51'",), ()), ["agent.kind=c51", "agent.kind=dqn"], []),
        ((("agent.kind='c51'", "agent.n_step=3"), ()), ["agent.kind=c51", "agent.kind=dqn"], ["agent.n_step"]),
        (
            (("learner.batch_size=32", "environment.id='A'"), ("learner.batch_size=128", "environment.id='A'"), ()),
            [
                "environment.id=A, learner.batch_size=32",
                "environment.id=A, learner.batch_size=128",
                "environment.id=CartPole-v1, learner.batch_size=64",
            ],
            [],
        ),
    ],
)
def test_names_have_as_few_fields_as_tell_groups_apart(
    changes: tuple[tuple[str, ...], ...], names: list[str], unnamed: list[str]
) -> None:
    configs = [groups.fields(tomllib.loads(dump(parse("", lines, seed)))) for seed, lines in enumerate(changes)]
    found = groups.group(configs)
    assert list(found.members) == names
    assert found.unnamed == unnamed


def test_runs_are_found_grouped_and_summed_up(tmp_path: Path) -> None:
    for seed, values in enumerate([(1.0, 5.0, 6.0), (3.0, 7.0)]):
        make_run(tmp_path / f"dqn-{seed}", *values, seed=seed)
    make_run(tmp_path / "other", 2.0, lines=("agent.kind='iqn'", "stop.target_return=9"))
    (tmp_path / "no-run").mkdir()
    found = comparison.compare(comparison.find([str(tmp_path / "*"), str(tmp_path / "dqn-*")]))
    dqn, iqn = found.groups
    assert (dqn.name, iqn.name) == ("agent.kind=dqn", "agent.kind=iqn")
    assert (found.x, found.environment, found.target) == ("environment steps", "CartPole-v1", None)
    assert dqn.estimate.center[0] == 2.0
    assert dqn.estimate.center[-1] == 6.5, "the run that ended at 200 keeps its last value"
    assert found.notes == ["groups also differ in stop.target_return"]
    _, line, other = comparison.table(found).splitlines()
    assert line.split() == ["agent.kind=dqn", "2", "6.5", "6", "to", "7", "(min,", "max)"]
    assert found.statistic == "mean, least to largest run"
    assert other.split() == ["agent.kind=iqn", "1", "2", "-"]
    alone = comparison.compare(comparison.find([str(tmp_path / "other")]))
    assert alone.statistic == "one run"


def test_runs_of_several_environments_are_scaled_and_resampled_within_each(tmp_path: Path) -> None:
    acrobot = ("environment.id='Acrobot-v1'",)
    for seed in range(4):
        make_run(tmp_path / f"a{seed}", -500.0, -100.0, lines=acrobot, seed=seed)
        make_run(tmp_path / f"b{seed}", 0.0, 250.0 + 250.0 * (seed % 2), seed=seed)
    runs = comparison.find([str(tmp_path / "*")])
    assert len(comparison.compare(runs).groups) == 2
    found = comparison.compare(runs, by=["agent.kind"])
    (group,) = found.groups
    assert (found.environment, found.target) == ("", None)
    assert found.statistic.startswith("interquartile mean")
    assert group.final.center[0] == pytest.approx(1.0)  # the middle four of 0.5, 0.5 and six times 1
    assert group.final.low[0] < 1.0 == group.final.high[0]
    assert "scaled" in found.tag


def test_no_interval_goes_beyond_what_the_task_can_return(tmp_path: Path) -> None:
    for seed, value in enumerate((500.0, 480.0, 20.0)):
        make_run(tmp_path / f"cart-{seed}", value, seed=seed)
        make_run(
            tmp_path / f"own-{seed}", value, seed=seed, lines=("environment.id=''", "environment.import_path='a:B'")
        )
    cart, own = comparison.compare(comparison.find([str(tmp_path / "*")])).groups
    assert own.final.low[0] < 0.0, "Student's, of a task that nothing is known of"
    assert own.final.high[0] > 500.0
    assert (cart.final.low[0], cart.final.center[0], cart.final.high[0]) == (0.0, own.final.center[0], 500.0)
    assert (cart.estimate.low.min(), cart.estimate.high.max()) == (0.0, 500.0)


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        ((), (0.0, 500.0)),
        (("environment.max_episode_steps=1000",), (0.0, 1000.0)),
        (("environment.id='Acrobot-v1'",), (-500.0, 0.0)),
        (("environment.id='FrozenLake-v1'",), (0.0, 1.0)),
        (("environment.id='LunarLander-v3'",), bounds.NONE),
        (("environment.kwargs={sutton_barto_reward=true}",), bounds.NONE),
        (("environment.import_path='module:Class'",), bounds.NONE),
    ],
)
def test_bounds_of_tasks(lines: tuple[str, ...], wanted: tuple[float, float]) -> None:
    assert bounds.of(groups.fields(tomllib.loads(dump(parse("", lines))))) == wanted


def test_bounds_that_runs_have_broken_are_none() -> None:
    assert bounds.common([(0.0, 500.0)] * 2, np.array([1.0, np.nan, 500.0])) == (0.0, 500.0)
    assert bounds.common([(0.0, 500.0)] * 2, np.array([501.0])) == bounds.NONE, "someone has changed the rewards"
    assert bounds.common([(0.0, 500.0), (0.0, 200.0)], np.array([1.0])) == bounds.NONE


def test_what_cannot_be_compared_is_said_in_words(tmp_path: Path) -> None:
    make_run(tmp_path / "one", 1.0)
    make_run(tmp_path / "begun")
    runs = comparison.find([str(tmp_path / "*")])
    assert comparison.compare(runs).notes == [f"{tmp_path / 'begun'} has no values of {TAG} and is left out"]
    with pytest.raises(UsageError, match="no run has values of nothing/such: there are evaluation/mean_return"):
        comparison.compare(runs, "nothing/such")
    with pytest.raises(UsageError, match="no values yet"):
        comparison.compare(runs[:1])
    with pytest.raises(UsageError, match=r"--group=agent.kin: .* 'agent.kind'"):
        comparison.compare(runs, by=["agent.kin"])
    make_run(tmp_path / "offline", 1.0, lines=("offline.dataset='somewhere'", "stop.gradient_steps=1"))
    with pytest.raises(UsageError, match="--x=seconds"):
        comparison.compare(comparison.find([str(tmp_path / "*")]))
    with pytest.raises(UsageError, match="matches no run"):
        comparison.find([str(tmp_path / "one"), str(tmp_path / "nothing*")])
    (tmp_path / "begun" / "config.toml").write_text("seed = ")
    with pytest.raises(UsageError, match="cannot be read"):
        comparison.compare(runs)


@pytest.mark.parametrize("suffix", figures.SUFFIXES)
def test_many_groups_are_drawn(tmp_path: Path, suffix: str) -> None:
    runs = [
        make_run(tmp_path / str(index), 1.0, float(index), lines=(f"agent.n_step={index}", "stop.target_return=9"))
        for index in range(1, 10)
    ]
    path = tmp_path / "new" / f"figure{suffix}"
    figures.draw(comparison.compare(runs), path)
    assert path.stat().st_size > 5_000


def test_a_figure_has_to_be_a_file_of_a_known_kind(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, words in ((tmp_path / "figure", ".png, .svg, .pdf"), (tmp_path / "file" / "a.png", "is a file")):
        with pytest.raises(UsageError, match=words):
            figures.refuse_path(path)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UsageError, match="cannot be written: Is a directory"):
        figures.draw(comparison.compare([make_run(tmp_path / "one", 1.0)]), tmp_path / "folder.png")


def test_columns_begin_below_each_other() -> None:
    assert aligned([["name", "n"], ["a", "100"], ["longer", ""]]) == "name      n\na       100\nlonger"
