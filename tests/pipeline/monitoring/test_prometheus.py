"""Names and texts for Prometheus, as its own parser reads them."""

import math

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipeline.messages.contents import CollectorReport
from pipeline.monitoring import metrics, prometheus
from pipeline.monitoring.health import Number, Vitals
from pipeline.records.counters import Account
from pipeline.records.results import Status

LABELS = {"run": "cartpole-1", "role": "learner", "index": "0"}


def parsed(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    found = {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in samples}
    assert len(found) == len(samples), "a value is there twice"
    return found


@pytest.mark.parametrize(
    ("tag", "name"),
    [
        ("speed/train_seconds", "reverb_dqn_speed_train_seconds"),
        ("system/collector-0_mib", "reverb_dqn_system_collector_0_mib"),
        ("episode/info/is success?", "reverb_dqn_episode_info_is_success_"),
        ("episode/info/größe", "reverb_dqn_episode_info_gr__e"),
    ],
)
def test_the_rule_of_names(tag: str, name: str) -> None:
    assert prometheus.name_of(tag) == name
    assert [key for key, _ in parsed(prometheus.text([Number(tag, 1.0)], LABELS))] == [name]


def test_values_and_labels_arrive_as_they_are() -> None:
    odd = 'a "b"\n\\c'
    numbers = [
        Number("learner/loss", math.nan),
        Number("learner/q_max", -math.inf),
        Number("ledger/lost", 3.0, {"cause": odd}),
        Number("ledger/lost", 4.0, {"cause": "other"}),
    ]
    found = parsed(prometheus.text(numbers, LABELS))
    own = tuple(sorted(LABELS.items()))
    assert math.isnan(found["reverb_dqn_learner_loss", own])
    assert found["reverb_dqn_learner_q_max", own] == -math.inf
    assert found["reverb_dqn_ledger_lost", tuple(sorted({**LABELS, "cause": odd}.items()))] == 3.0


def test_of_two_tags_with_one_name_the_first_is_shown() -> None:
    found = parsed(prometheus.text([Number("episode/info/a-b", 1.0), Number("episode/info/a.b", 2.0)], LABELS))
    assert list(found.values()) == [1.0]


def test_the_texts_of_several_processes_are_one() -> None:
    texts = [
        prometheus.text([Number("replay/size", float(index))], {**LABELS, "index": str(index)}) for index in range(3)
    ]
    together = prometheus.merged(texts)
    assert together.count("# TYPE reverb_dqn_replay_size gauge") == 1
    assert sorted(parsed(together).values()) == [0.0, 1.0, 2.0]


def test_a_run_shows_every_number_of_its_ledger() -> None:
    account = Account(9, 8, 7, 1, 1, 99, {"collector killed": 5}, 0, 64, 60, 1, 3)
    rates = 100.0, 50.0, 8.0
    status = Status("learning", 10, 20, 3, 1.5, *rates, 7, None, None, None, [], 0.1, None, {}, account=account)
    found = prometheus.of_run({"speed/train_seconds": 1.5}, status, ())
    values = {(number.tag, *number.labels.values()): number.value for number in found}
    assert values["run/phase", "learning"] == 1.0
    assert values["ledger/lost", "collector killed"] == 5.0
    assert values["ledger/lost", "replay restarted"] == 0.0, "shown before the first"
    ledger = {tag.partition("/")[2] for tag, *_ in values if tag.startswith("ledger/")}
    assert ledger == set(Account.__struct_fields__)
    assert values["run/gradient_steps",] == 20.0
    assert not prometheus.of_run({}, None, ())


def test_a_collector_shows_its_newest_reports_under_the_names_of_tensorboard() -> None:
    first = CollectorReport(
        index=1, process="collector-1.0", environment_steps=80, begun=80, windows=64, episodes=2, returns=(3.0, 5.0),
        lengths=(3, 5), epsilon=0.25, weights_age=100, weights_seconds=0.5, blocked_seconds=1.0, resident_bytes=2**20,
    )  # fmt: skip
    vitals = Vitals()
    assert prometheus.of_reports(vitals.reports) == []
    vitals.show(first)
    values = {number.tag: number.value for number in prometheus.of_reports(vitals.reports)}
    assert values == metrics.collector_scalars([first]) | metrics.episode_scalars(first)
    assert values["exploration/epsilon"] == 0.25
    for epsilon in (0.2, 0.1):  # in which no episode has ended
        vitals.show(msgspec.structs.replace(first, epsilon=epsilon, returns=(), lengths=()))
    later = {number.tag: number.value for number in prometheus.of_reports(vitals.reports)}
    assert later == values | {"exploration/epsilon": 0.1}
    vitals.show(msgspec.structs.replace(first, returns=(7.0,), lengths=(7,)))
    assert Number("episode/return", 7.0) in prometheus.of_reports(vitals.reports)


def test_a_server_of_the_replay_shows_its_table() -> None:
    import reverb

    selectors = reverb.selectors.Fifo(), reverb.selectors.Fifo()
    server = reverb.Server([reverb.Table("t", *selectors, 10, reverb.rate_limiters.MinSize(1))])
    client = reverb.Client(f"127.0.0.1:{server.port}")
    for item in range(3):
        client.insert([float(item)], {"t": 1.0})
    list(client.sample("t", 2))
    values = {number.tag: number.value for number in prometheus.of_replay(client.server_info(5)["t"], per_item=4)}
    server.stop()
    assert (values["replay/size"], values["replay/capacity"]) == (12.0, 40.0)
    assert (values["replay/inserted_items"], values["replay/sampled_items"]) == (3.0, 2.0)


def test_a_process_is_seen_by_the_kernel() -> None:
    values = {number.tag: number.value for number in prometheus.of_process()}
    assert values["process/start_time_seconds"] > 1e9
    assert values["process/resident_bytes"] > 1e6
    assert values["process/cpu_seconds"] > 0.0
