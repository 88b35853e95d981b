"""What sweeps are refused for before anything is written, and what they find of earlier ones."""

from pathlib import Path

import msgspec
import pytest

from pipeline.experiment import config
from pipeline.experiment.config import UsageError
from pipeline.experiment.run_directory import write_json
from pipeline.records.results import Summary
from pipeline.sweep import results
from pipeline.sweep.combinations import axis, product
from pipeline.sweep.plan import Plan, lock


def make_plan(folder: Path, *grid: str, source: str = "cartpole", lines: tuple[str, ...] = ()) -> Plan:
    return Plan(folder, source, lines, product([axis(line) for line in grid]), range(3, 5))


def make_summary(stop_reason: str, mean_return: float | None, solved: bool = False, steps: int = 1_000) -> Summary:
    numbers = dict.fromkeys(Summary.__struct_fields__[:14], 1)
    known = {"stop_reason": stop_reason, "mean_return": mean_return, "solved": solved, "environment_steps": steps}
    return msgspec.convert({**numbers, **known, "lost_transitions": 0}, Summary)


def test_a_plan_has_every_combination_with_every_seed(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    plan = make_plan(folder, "agent.n_step=[1, 3]", "agent.double=[true]", lines=("agent.discount=0.5",))
    assert not folder.exists()
    assert [member.name for member in plan.members] == [
        f"agent.n_step={n_step},agent.double=true/seed-{seed}" for n_step in (1, 3) for seed in (3, 4)
    ]
    lock(plan.folder)
    plan.write()
    stored = config.load(str(plan.members[0].config))
    assert (stored.agent.n_step, stored.agent.discount, stored.environment.id) == (1, 0.5, "CartPole-v1")
    with pytest.raises(UsageError, match="in use by a sweep"):
        lock(plan.folder)


@pytest.mark.parametrize(
    ("grid", "lines", "words"),
    [
        ("agent.n_stepp=[1]", (), r"agent\.n_step'"),
        ("agent.n_step=[3, 0]", (), r"agent\.n_step: "),
        ('environment.id=["CartPole-v1", "CartPole-v99"]', (), "environment.id=CartPole-v99: no environment"),
        ('environment.id=["Pendulum-v1"]', (), "Discrete"),
        ("agent.n_step=[3]", ("stop.environment_steps=0",), "agent.n_step=3: its runs might never end"),
        (
            "agent.n_step=[3]",
            ("stop.environment_steps=0", "stop.gradient_steps=1", 'offline.dataset="nowhere"'),
            "nowhere' holds no run",
        ),
    ],
)
def test_every_combination_is_checked(tmp_path: Path, grid: str, lines: tuple[str, ...], words: str) -> None:
    with pytest.raises(UsageError, match=words) as raised:
        make_plan(tmp_path / "sweep", grid, lines=lines)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="holds no sweep"):
        make_plan(tmp_path)
    with pytest.raises(UsageError, match="is a file"):
        make_plan(tmp_path / "file" / "sweep")
    with pytest.raises(UsageError, match="--out is a URL"):
        make_plan(tmp_path / "s3:" / "sweep")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_more_values_may_be_asked_for_but_not_other_settings(tmp_path: Path) -> None:
    first = make_plan(tmp_path, "agent.n_step=[1, 3]")
    results.write(first, [], is_ended=False)
    first.write()
    assert len(make_plan(tmp_path, "agent.n_step=[1, 3, 5]").members) == 6
    with pytest.raises(UsageError, match=r"agent\.n_step=1 was run with other values of agent\.discount"):
        make_plan(tmp_path, "agent.n_step=[1, 3]", lines=("agent.discount=0.5",))


def test_results_are_of_finished_runs_and_sorted(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, "agent.n_step=[1, 3, 5, 7]")
    summaries = [
        make_summary("environment_steps", 10.0),
        make_summary("diverged", 900.0),
        make_summary("target_return", 480.0, solved=True, steps=1_000),
        make_summary("target_return", 500.0, solved=True, steps=3_000),
        make_summary("gradient_steps", None),
        make_summary("interrupted", None),
    ]
    for member, summary in zip(plan.members, summaries, strict=False):
        member.run.path.mkdir(parents=True)
        write_json(member.run.summary, summary)
    assert [member.is_finished() for member in plan.members] == [True, False, True, True, True, False, False, False]
    found = results.outcomes(plan)
    assert [outcome.name[-1] for outcome in found] == ["3", "1", "5", "7"]
    best = found[0]
    assert (best.mean_return, best.solved, best.environment_steps_to_solve) == (490.0, 2, 2_000.0)
    assert (best.low, best.high, best.is_range) == (480.0, 500.0, True)
    lines = results.table(found).splitlines()
    assert lines[1].split() == [
        "agent.n_step=3",
        "2",
        "of",
        "2",
        "490",
        "480",
        "to",
        "500",
        "(min,",
        "max)",
        "2",
        "2,000",
        "1.0",
    ]
    assert lines[2].split() == ["agent.n_step=1", "1", "of", "2", "10", "-", "0", "-", "-"]
    results.write(plan, found, is_ended=True)
    rows = (tmp_path / "sweep.csv").read_text().splitlines()
    assert rows[0].startswith("agent.n_step,seed,run_dir,stop_reason,solved,mean_return")
    assert rows[2].startswith("1,4,agent.n_step=1/seed-4,diverged,False,900.0")
    assert rows[-1] == "7,4,agent.n_step=7/seed-4,,,,,,,"


def test_the_surest_is_first_and_no_interval_leaves_the_task(tmp_path: Path) -> None:
    plan = Plan(tmp_path, "cartpole", (), product([axis("agent.n_step=[1, 3, 5]")]), range(3))
    returns = [500.0, 500.0, 300.0, 420.0, 425.0, 430.0, None, None, None]
    for member, value in zip(plan.members, returns, strict=True):
        member.run.path.mkdir(parents=True)
        write_json(member.run.summary, make_summary("environment_steps", value))
    found = results.outcomes(plan)
    assert [outcome.name[-1] for outcome in found] == ["3", "1", "5"], "the mean of the second is higher"
    assert found[1].mean_return > found[0].mean_return > found[0].low > found[1].low
    assert found[1].high == 500.0, "Student's would be 719.8"
    assert found[1].low == pytest.approx(433.333 - 4.3027 * 115.470 / 3**0.5, abs=0.1)


def test_progress_is_the_share_of_the_budget_that_is_used(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, lines=("stop.environment_steps=1000", "stop.gradient_steps=400", "stop.seconds=0"))
    member = plan.members[0]
    assert member.progress() == 0.0
    member.run.path.mkdir(parents=True)
    for gradient_steps, share in ((100, 0.25), (500, 1.0)):
        status = {"phase": "learning", "environment_steps": 200, "gradient_steps": gradient_steps, "episodes": 1,
                  "train_seconds": 1.0, "environment_steps_per_second": 1.0, "gradient_steps_per_second": 1.0,
                  "samples_per_insert": 1.0, "replay_size": 1, "episode_return": None, "evaluation_return": None,
                  "evaluation_std": None, "recent_evaluations": [], "epsilon": 1.0, "loss": None,
                  "resident_bytes": {}}  # fmt: skip
        write_json(member.run.status, status)
        assert member.progress() == share
