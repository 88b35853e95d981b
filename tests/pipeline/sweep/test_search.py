"""Searches without processes: what is refused, proposed, pruned and kept, with files such as runs leave."""

import sqlite3
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from event_files import write

from pipeline.comparison.curves import MEAN_RETURN
from pipeline.experiment import config
from pipeline.experiment.config import UsageError
from pipeline.experiment.run_directory import write_json
from pipeline.records.results import Summary
from pipeline.sweep import search, search_results
from pipeline.sweep import study as studies
from pipeline.sweep.plan import SweepRun, lock
from pipeline.sweep.progress import Progress
from pipeline.sweep.search import Search, SearchPlan
from pipeline.sweep.study import Study

pytest.importorskip("optuna")
N_STEP = "agent.n_step={low=1, high=9}"
BUDGET = ("stop.environment_steps=400", "evaluation.every_steps=100", "replay.min_size=64")


def make_plan(folder: Path, *space: str, lines: tuple[str, ...] = BUDGET, **how: Any) -> SearchPlan:
    given = {"method": "random", "pruner": "none", "trials": 4, "seeds": range(1), "objective": "last", **how}
    return SearchPlan(folder, "cartpole", lines, space or (N_STEP,), **given)


@pytest.fixture(autouse=True)
def _quick_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite need not wait for the disk: no test cuts the power."""
    connect = sqlite3.connect

    def quick(*arguments: Any, **named: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **named)
        connection.execute("PRAGMA synchronous=OFF")
        return connection

    monkeypatch.setattr(studies.sqlite3, "connect", quick)


class Searching:
    """A search whose runs end as a test says."""

    def __init__(self, plan: SearchPlan) -> None:
        self.plan = plan
        plan.folder.mkdir(exist_ok=True)
        search_results.write(plan, [], {}, is_ended=False)
        self.study = Study(
            plan.folder, plan.space, plan.method, plan.pruner, plan.evaluations, plan.seeds[0], plan.settings
        )
        self.search = Search(plan, self.study, Progress(0, 0), lambda: None)

    def take(self) -> SweepRun:
        member = self.search.take()
        assert member is not None
        return member

    def evaluate(self, member: SweepRun, *returns: float, first: int = 1) -> dict[SweepRun, str]:
        points = [(float(at), at * 100 + 3, {MEAN_RETURN: value}) for at, value in enumerate(returns, first)]
        write(member.run, "evaluator", *points)
        return self.search.unwanted([member])

    def end(self, member: SweepRun, mean_return: float | None, stop_reason: str = "environment_steps") -> str:
        member.run.path.mkdir(parents=True, exist_ok=True)
        numbers = dict.fromkeys(Summary.__struct_fields__[:14], 1)
        known = {"stop_reason": stop_reason, "mean_return": mean_return, "best_mean_return": mean_return}
        write_json(member.run.summary, msgspec.convert({**numbers, "solved": False, **known}, Summary))
        return self.search.take_end(member, 4 if stop_reason == "diverged" else 0)

    @property
    def states(self) -> list[str]:
        return [trial.state for trial in self.study.trials()]


@pytest.mark.parametrize(
    ("space", "how", "words"),
    [
        (["agent.n_stepp={low=1, high=9}"], {}, r"agent\.n_step'"),
        (["agent.n_step={low=0, high=9}"], {}, r"agent\.n_step: "),
        (["agent.n_step={low=1.0, high=2.5}"], {}, r"agent\.n_step"),
        (["agent.kind=['dqn', 'nothing']"], {}, "nothing"),
        (["environment.kwargs.no=[1, 2]"], {}, "environment.kwargs.no=1"),
        ([N_STEP], {"trials": None}, "--trials is missing"),
        (["agent.n_step={low=1, high=9, points=3}"], {}, "for --search=grid"),
        ([N_STEP], {"method": "grid", "trials": 10}, "has 9 points"),
        (["agent.discount={low=0.5, high=0.9}"], {"method": "grid", "trials": None}, "points=5"),
        ([N_STEP], {"lines": ("stop.environment_steps=0",)}, "might never end"),
        ([N_STEP], {"pruner": "median", "lines": (*BUDGET, "evaluation.enabled=false")}, "--pruner=none"),
        ([N_STEP], {"objective": "curve", "lines": ("stop.seconds=9", "stop.environment_steps=0")}, "set stop.env"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_anything_is_written(
    tmp_path: Path, space: list[str], how: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words) as raised:
        make_plan(tmp_path / "search", *space, **how)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_another_search_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "a?b#c%20"
    first = Searching(make_plan(folder))
    first.take()
    assert (folder / "search.db").is_file(), "whatever its characters mean in a URL"
    make_plan(folder, trials=9, pruner="asha")
    for how, words in (
        ({"lines": (*BUDGET, "agent.discount=0.5")}, r"another value of agent\.discount"),
        ({"objective": "best"}, "another objective"),
        ({"seeds": range(2)}, "another seeds"),
        ({"method": "tpe"}, "another method"),
    ):
        with pytest.raises(UsageError, match=words):
            make_plan(folder, **how)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="another space"):
        make_plan(folder, "agent.n_step={low=1, high=8}")
    lock(folder)
    with pytest.raises(UsageError, match="in use by a sweep"):
        lock(folder)
    (folder / "search.db").write_text("nothing that SQLite knows" * 99)
    with pytest.raises(UsageError, match="no study that could go on"):
        make_plan(folder)


def test_the_best_trial_is_a_config_that_train_takes(tmp_path: Path) -> None:
    made = Searching(make_plan(tmp_path / "search", N_STEP, "agent.hidden_units=[[8], [8, 8]]", seeds=range(7, 8)))
    returns = [3.0, 9.0, 9.0, 5.0]
    members = [made.take() for _ in returns]
    assert made.search.take() is None
    remarks = [made.end(member, value) for member, value in zip(members, returns, strict=True)]
    assert ["(best so far)" in remark for remark in remarks] == [True, True, False, False]
    found = made.study.trials()
    assert [trial.objective for trial in found] == returns
    search_results.write(made.plan, found, {"agent.n_step": 1.0}, is_ended=True)
    best = config.load(str(made.plan.folder / "best.toml"))
    assert {"agent.n_step": best.agent.n_step, "agent.hidden_units": list(best.agent.hidden_units)} == found[1].values
    assert best.seed == 7
    results = msgspec.json.decode((made.plan.folder / "sweep.json").read_bytes())
    assert results["best"]["name"] == "trial-0001"
    rows = (made.plan.folder / "sweep.csv").read_text().splitlines()
    assert rows[0].startswith("trial,state,objective,agent.n_step,agent.hidden_units")
    lines = search_results.table(found).splitlines()
    assert [line.split()[0][-4:] for line in lines[:-1]] == ["rial", "0001", "0002", "0003", "0000"]
    assert lines[-1] == "trials: 4 complete"


def test_a_trial_far_below_the_median_is_pruned_as_its_evaluations_arrive(tmp_path: Path) -> None:
    made = Searching(make_plan(tmp_path / "search", trials=7, pruner="median"))
    assert made.plan.evaluations == 4
    for level in range(5, 10):  # as many as the pruner spares
        member = made.take()
        assert made.evaluate(member, *[float(level)] * 4) == {}
        made.end(member, float(level))
    good, bad = made.take(), made.take()
    assert made.evaluate(good, 8.0, 8.0) == {}
    assert made.evaluate(bad, 1.0) == {}, "within the first quarter of its evaluations none is pruned"
    reasons = made.evaluate(bad, 1.0, first=2)
    assert reasons == {bad: "by evaluation 2 of 4, of mean return 1"}
    assert made.states == [*["complete"] * 5, "running", "pruned"]
    assert made.end(bad, 99.0) == "", "whatever the run does before it has ended"
    assert made.study.trials()[-1].reason == reasons[bad]
    assert "5 complete, 1 pruned" in search_results.table(made.study.trials())


def test_asha_lets_a_third_go_on(tmp_path: Path) -> None:
    made = Searching(make_plan(tmp_path / "search", trials=6, pruner="asha"))
    pruned = [bool(made.evaluate(made.take(), value)) for value in (5.0, 4.0, 6.0, 3.0, 7.0, 6.5)]
    # The best of the first three, from then on the best third of those that came so far.
    assert pruned == [False, True, False, True, False, False]


def test_a_trial_of_several_seeds_is_judged_by_the_first_and_scored_by_all(tmp_path: Path) -> None:
    made = Searching(make_plan(tmp_path / "search", trials=1, seeds=range(3), objective="best"))
    first = made.take()
    assert made.search.take() is None, "a trial's seeds run one after the other"
    assert made.end(first, 3.0) == ""
    second = made.take()
    assert made.evaluate(second, 99.0) == {}
    made.end(second, 6.0)
    assert "(best so far)" in made.end(made.take(), 9.0)
    assert made.study.trials()[0].objective == 6.0
    assert made.study.trials()[0].returns == {}


def test_runs_that_solve_early_count_with_what_they_reached(tmp_path: Path) -> None:
    made = Searching(make_plan(tmp_path / "search", trials=1, objective="curve"))
    member = made.take()
    made.evaluate(member, 2.0, 4.0)
    made.end(member, 4.0)
    (trial,) = made.study.trials()
    assert trial.returns == {1: 2.0, 2: 4.0, 3: 4.0, 4: 4.0}
    assert trial.objective == pytest.approx(14.0 / 4)


def test_runs_that_are_faster_than_their_evaluator_are_noted_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (*BUDGET, "evaluation.every_steps=40")
    made = Searching(make_plan(tmp_path / "search", trials=2, objective="curve", lines=lines))
    for member in (made.take(), made.take()):
        write(member.run, "evaluator", (0.0, 40, {MEAN_RETURN: 1.0}), (1.0, 400, {MEAN_RETURN: 1.0}))
        made.end(member, 1.0)
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("had 2 of 10 evaluations") == 1


def test_failures_are_named_and_tried_again_by_the_next_call(tmp_path: Path) -> None:
    made = Searching(make_plan(tmp_path / "search", trials=3))
    members = [made.take() for _ in range(3)]
    made.search.take_failure(members[0], "exit code 1: it broke")
    assert "diverged" in made.end(members[1], None, "diverged")
    made.end(members[2], None)
    assert made.states == ["failed", "pruned", "failed"]
    assert [name for name, _ in made.search.failures] == ["trial-0000", "trial-0002"]
    assert made.study.trials()[0].reason == "exit code 1: it broke"

    again = Searching(make_plan(tmp_path / "search", trials=3))
    assert again.search.waiting == 2
    retried = [again.take(), again.take()]
    assert again.search.take() is None
    assert [member.combination for member in retried] == [members[0].combination, members[2].combination]
    for member in retried:
        again.end(member, 1.0)
    assert again.states == ["failed", "pruned", "failed", "complete", "complete"]
    assert Searching(make_plan(tmp_path / "search", trials=3)).search.take() is None


def test_values_that_do_not_fit_each_other_fail_their_trial_alone(tmp_path: Path) -> None:
    space = ["replay.min_size=[64, 300]", "replay.capacity=[4000, 200]"]
    with pytest.raises(UsageError, match=r"replay\.min_size=300, replay\.capacity=200: "):
        make_plan(tmp_path / "search", *space, method="grid", trials=None)  # all points of a grid are known
    made = Searching(make_plan(tmp_path / "search", *space, trials=2))
    made.study.enqueue({"replay.min_size": 300, "replay.capacity": 200})
    made.end(made.take(), 1.0)
    assert made.states == ["failed", "complete"]
    assert "the config does not take" in made.study.trials()[0].reason
    assert "replay.min_size" in made.study.trials()[0].reason


def test_a_killed_search_goes_on_with_its_trials(tmp_path: Path) -> None:
    made = Searching(make_plan(tmp_path / "search", trials=5, pruner="median"))
    members = [made.take() for _ in range(3)]
    made.evaluate(members[0], 1.0, 2.0)
    made.end(members[0], 2.0)
    made.evaluate(members[1], 3.0, 4.0)
    made.evaluate(members[2], 5.0)
    made.study._study.ask()  # a trial that had been begun, but had got no values yet

    again = Searching(make_plan(tmp_path / "search", trials=5, pruner="median"))
    assert (again.search.ended, again.search.waiting) == (1, 4)
    taken = [again.take() for _ in range(4)]
    assert again.search.take() is None
    assert {member.name for member in taken} == {f"trial-000{number}/seed-0" for number in (1, 2, 3, 4)}
    by_name = {member.name: member for member in taken}
    for member in members[1:]:
        assert by_name[member.name].combination == member.combination
    assert again.evaluate(by_name[members[1].name], 6.0, first=3) == {}
    assert again.study.trials()[1].returns == {1: 3.0, 2: 4.0, 3: 6.0}
    assert len({repr(trial.values) for trial in again.study.trials()}) > 3, "the draws go on, and do not begin again"


def test_a_grid_tries_every_point_once_and_fewer_by_chance(tmp_path: Path) -> None:
    def values_of(trials: int | None, folder: str) -> list[int]:
        made = Searching(make_plan(tmp_path / folder, "agent.n_step={low=1, high=5}", method="grid", trials=trials))
        while (member := made.search.take()) is not None:
            made.end(member, 1.0)
        return [trial.values["agent.n_step"] for trial in made.study.trials() if trial.state == "complete"]

    assert values_of(None, "all") == [1, 2, 3, 4, 5]
    some = values_of(3, "some")
    assert len(set(some)) == 3
    assert sorted(values_of(5, "some")) == [1, 2, 3, 4, 5], "more may be asked for"


def test_of_one_field_nothing_is_more_important(tmp_path: Path) -> None:
    study = Searching(make_plan(tmp_path / "search", N_STEP, method="tpe")).study
    for _ in range(6):
        trial = study.ask()
        study.tell(trial.number, float(trial.values["agent.n_step"]), "complete")
    assert study.importance() == {}, "100 % of itself says nothing"


def test_what_matters_is_found_important(tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "search", N_STEP, "agent.discount={low=0.5, high=0.9}", method="tpe")
    study = Searching(plan).study
    assert study.importance() == {}, "nothing is known before trials have ended"
    for _ in range(14):
        trial = study.ask()
        study.tell(trial.number, float(trial.values["agent.n_step"]), "complete")
    importance = study.importance()
    assert importance["agent.n_step"] > 0.6
    assert sum(importance.values()) == pytest.approx(1.0)


def test_the_mean_over_a_budget_by_hand() -> None:
    points = [(90.0, 2.0), (310.0, 5.0)]
    # Evaluations at 100, 200, 300, 400: the first is there a little early, the second is left out, the last carried on.
    assert search.over_budget(points, 100, 4) == pytest.approx((2.0 + 2.0 + 5.0 + 5.0) / 4)
    assert search.over_budget([(290.0, 5.0)], 100, 4) == 5.0
    assert search.over_budget([(0.0, 99.0), *points], 100, 4) == pytest.approx(3.5), (
        "an untrained policy's luck is none"
    )
    assert search.over_budget([(0.0, 99.0)], 100, 4) == 99.0
    assert search.over_budget([], 100, 4) is None


def test_a_search_without_optuna_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UsageError, match=r"pip install .*search"):
        studies.require()
