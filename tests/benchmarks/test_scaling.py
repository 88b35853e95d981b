"""The model of distributed runs, against numbers worked by hand."""

import dataclasses
import math

import pytest

from benchmarks.scaling import model
from benchmarks.scaling.learners import model as of_learners
from benchmarks.scaling.learners.report import learning_table, links_table, steps_table
from benchmarks.scaling.learners.teams import Shape, shapes_of_links, shapes_of_steps
from benchmarks.scaling.model import COLLECTOR, LEARNER, RELAY, SHARD, Demand, Host, Run, UnitCosts
from benchmarks.scaling.results import Measurement, append, by_repeat, drop, medians, read

COSTS = UnitCosts(
    collect=1e-4, insert=1e-3, draw=2e-3, take=4e-3, take_more=1e-3, learn=1e-2, publish=5e-3, accept=2e-3, fetch=1e-3,
    fetch_weights=3e-3, report=1e-2, report_in=5e-3, step_bytes=10.0, drawn_bytes=20.0, fetch_bytes=100.0,
    weights_bytes=1000.0, report_bytes=200.0, collect_cores=0.5, learn_cores=1.0,
)  # fmt: skip
RUN = Run(
    collectors=10, samples_per_insert=4.0, batch_size=32, windows_per_item=8, shards=2, fetches_per_second=5.0,
    publications_per_second=2.0, reports_per_second=1.0,
)  # fmt: skip


def test_what_each_process_is_asked_for() -> None:
    cores = model.cores(COSTS, RUN)
    assert cores[COLLECTOR].at(1000.0) == pytest.approx(0.01)  # of 1,000 steps 100, each 1e-4
    # 2 publications of 2e-3; of 10 collectors' 5 fetches of 1e-3, 2 weights of 3e-3 and a report of 5e-3, a half
    assert cores[SHARD].fixed == pytest.approx(0.004 + 10 * (0.005 + 0.006 + 0.005) / 2)
    # each step: an eighth of an item inserted, half an item drawn, on two shards
    assert cores[SHARD].per_step == pytest.approx((1e-3 / 8 + 0.5 * 2e-3) / 2)
    assert cores[LEARNER].fixed == pytest.approx(2 * 2 * 5e-3 + 10 * 1e-2)
    assert cores[LEARNER].per_step == pytest.approx(0.5 * 5e-3 + 4 / 32 * 1e-2)
    assert RELAY not in cores


def test_what_crosses_the_links() -> None:
    links = model.links(COSTS, RUN)
    assert links[f"into {SHARD}"] == Demand(pytest.approx(2 * 1100 + 10 * 200 / 2), pytest.approx(5.0))
    assert links[f"out of {SHARD}"].fixed == pytest.approx((10 * (500 + 2000) + 2000) / 2)
    assert links[f"out of {SHARD}"].per_step == pytest.approx(40.0)
    assert links[f"into {LEARNER}"] == Demand(pytest.approx(2000.0), pytest.approx(80.0))
    assert links[f"out of {LEARNER}"] == Demand(pytest.approx(2 * 2 * 1100), 0.0)


def test_relays_take_the_fetches_off_the_replay() -> None:
    relayed = dataclasses.replace(RUN, clients_per_relay=4)
    assert relayed.relays == 3
    assert model.cores(COSTS, relayed)[SHARD].fixed == pytest.approx(0.004 + (3 * 0.011 + 10 * 0.005) / 2)
    assert model.cores(COSTS, relayed)[RELAY] == Demand(pytest.approx(0.004 + 4 * 0.011), 0.0)
    assert model.cores(COSTS, relayed)[LEARNER] == model.cores(COSTS, RUN)[LEARNER]


def test_where_each_part_is_full() -> None:
    full = model.full_at(COSTS, RUN, Host(cores=2.0, link=1e6), gradient_steps_per_second=100.0)
    assert full["gradient steps"] == pytest.approx(100 * 32 / 4)
    assert full[COLLECTOR] == pytest.approx(10 * 0.5 / 1e-4)
    assert full[LEARNER] == pytest.approx((2.0 - 0.12) / (0.5 * 5e-3 + 4 / 32 * 1e-2))
    assert full[f"out of {LEARNER}"] == math.inf
    assert model.collectors_fed(RUN, 100.0, 40.0) == pytest.approx(20.0)
    assert Demand(3.0, 1.0).full_at(2.0) == 0.0


def test_shards_are_as_few_as_will_do() -> None:
    host = Host(cores=1.0, link=1e9)
    needed = model.shards_needed(COSTS, RUN, host, 10_000.0)
    assert needed == 17  # ceil((10 * 0.016 + 10,000 * 0.001125) / (0.7 - 0.004))
    with pytest.raises(ValueError, match="publications alone"):
        model.shards_needed(COSTS, dataclasses.replace(RUN, publications_per_second=1e6), host, 1.0)


def test_processes_that_share_a_machine_share_its_cores() -> None:
    demands = model.cores(COSTS, RUN)
    rate = model.on_one_machine(COSTS, RUN, 2.0)
    used = demands[SHARD].at(rate) * 2 + demands[LEARNER].at(rate) + demands[COLLECTOR].at(rate) * 10
    assert used == pytest.approx(2.0)
    # With many cores it is what gradient steps take of one.
    assert model.on_one_machine(COSTS, RUN, 1e6) == pytest.approx(1.0 / 1e-2 * 32 / 4)


def test_costs_are_fitted_to_what_a_run_has_used() -> None:
    used = {COLLECTOR: 0.3, SHARD: 0.5, LEARNER: 0.7}
    fitted = model.fitted(COSTS, RUN, 100.0, used)
    demands = model.cores(fitted, RUN)
    assert demands[COLLECTOR].at(100.0) * 10 == pytest.approx(0.3)
    assert demands[SHARD].at(100.0) * 2 == pytest.approx(0.5)
    assert demands[LEARNER].at(100.0) == pytest.approx(0.7)
    assert fitted.insert / fitted.draw == pytest.approx(COSTS.insert / COSTS.draw)


def test_results_are_kept_as_they_come_and_replaced_by_part(tmp_path: pytest.TempPathFactory) -> None:
    path = tmp_path / "results.jsonl"  # type: ignore[operator]
    assert read(path) == []
    for repeat in range(3):
        for setting in ("a", "b"):
            append(path, Measurement("units", setting, repeat, {"x": float(repeat)}, "now", "here"))
    append(path, Measurement("units", "a", 3, {"x": 9.0}, "now", "here"))  # b was not measured any more
    append(path, Measurement("runs", "c", 0, {"x": 5.0}, "now", "here"))
    assert medians(by_repeat(read(path), "units")) == {"a": {"x": 1.0}, "b": {"x": 1.0}}
    drop(path, "units")
    assert [one.part for one in read(path)] == ["runs"]


def test_what_several_learners_cost_and_send() -> None:
    assert of_learners.passed(2, 1_000) == pytest.approx(1_000)  # a half in each of two rounds
    assert of_learners.passed(4, 1_000) == pytest.approx(1_500)  # three quarters in each
    assert of_learners.cpu(10.0, 2, 1, 1e6) == pytest.approx(10.0 + 1.3 + 0.5 + 4.8)
    assert of_learners.cpu(10.0, 2, 10, 1e6) == pytest.approx(10.0 + (2.5 + 0.5 + 4 * 9.0) / 10)
    assert of_learners.sent(2, 1, 1e6) == pytest.approx(4e6)
    assert of_learners.sent(4, 10, 1e6) == pytest.approx(4 * 1.5 * 4e6 / 10)
    assert of_learners.on_link(4_000, 1.0) == pytest.approx(0.032)
    assert of_learners.on_link(4_000, 0.0) == 0.0


def of_shapes(part: str, shapes: list[Shape]) -> list[Measurement]:
    values = {"step_ms": 20.0, "cpu_ms": 10.0, "sent": 4e6, "weights": 1e6, "said_least_ms": 4.0, "said_alone_ms": 0.5}
    return [Measurement(part, shape.name, 0, values, "", "") for shape in shapes]


def test_tables_of_several_learners_have_a_row_for_each_of_their_shapes() -> None:
    steps = steps_table(of_shapes("steps 64x64, 64", shapes_of_steps()))
    assert len(steps) == 2 + 3
    assert "| 2, 1 | 10 ms | 16.6 ms | +66% | 1.00 | 4,000.0 kB | 4,000.0 kB | pays from 4 ms, takes 0.5" in steps[2]
    links = links_table(of_shapes("links", shapes_of_links()))
    assert len(links) == 2 + 4
    assert links[-1] == "| 0.1 Gbit/s | 10 ms | 4,000 kB | 20 ms | 20 ms | 320 ms | 340 ms | +1600% |"
    values = {"environment_steps": 9e3, "solved": 1.0}
    runs = [Measurement("learning cartpole", "2 learners, 4 local steps", seed, values, "", "") for seed in range(2)]
    assert learning_table(runs)[2:] == ["| cartpole | 2 learners, 4 local steps | 2 of 2 | 9,000 | 9,000, 9,000 |"]
