"""What operators see of real runs: metrics, health and logs, the dashboard that reads them, and systemd."""

import contextlib
import itertools
import json
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client.parser import text_string_to_metric_families
from promql import reads
from small_runs import ENDLESS, ROOT, TAGS, command, environment, tags_of
from waiting import SECONDS, wait_until

from pipeline.messages.pages import fetched
from pipeline.messages.ports import free_port
from pipeline.monitoring.prometheus import name_of

DASHBOARD = ROOT / "docs" / "recipes" / "grafana.json"
OWN = {"run", "role", "index"}

Labels = tuple[tuple[str, str], ...]


def end_of(log: Path) -> Callable[[], str]:
    return lambda: log.read_text()[-3000:]


def values_of(text: str) -> dict[tuple[str, Labels], float]:
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in samples}


# A whole run.


class Seen(NamedTuple):
    """A run that was looked at while it went on, and how it ended."""

    folder: Path
    text: str
    """Of its /metrics."""
    results: Mapping[str, int]
    """How many values a real Prometheus found by each expression of the dashboard; empty where there is none."""
    code: int
    log: str

    @property
    def values(self) -> dict[tuple[str, Labels], float]:
        return values_of(self.text)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    folder = tmp_path_factory.mktemp("operators")
    log, port = folder / "log", free_port()
    sets = [f"--set={line}" for line in (*ENDLESS, "stop.gradient_steps=0", "replay.shards=1", "collect.collectors=2")]
    flags = ["--config=cartpole", f"--run_dir={folder / 'run'}", "--log_format=json", f"--metrics=127.0.0.1:{port}"]
    with log.open("w") as out:
        train = subprocess.Popen(
            command("pipeline.train", *flags, *sets), stdout=out, stderr=out, cwd=ROOT, env=environment()
        )

    def page(path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20.0) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def is_whole() -> bool:
        text = page("/metrics")[1]
        roles = ("learner", "evaluator", "replay", "collector")
        reported = (f'episode_return{{index="{index}",role="collector"' for index in (0, 1))
        return all(f'health_ready{{index="0",role="{role}",run="run"}} 1.0' in text for role in roles) and all(
            word in text for word in (*reported, 'evaluation_mean_return{index="0",role="learner"', "learner_loss")
        )

    try:
        wait_until(lambda: page("/healthz")[0], "there is a page", end_of(log))
        assert page("/readyz")[0] == 503, "the learner has not begun"
        assert page("/healthz") == (200, "ok\n")
        wait_until(is_whole, "every role has shown what it does", end_of(log))
        assert page("/readyz") == (200, "ok\n")
        text = page("/metrics")[1]
        results = asked_of_prometheus(port, folder, log) if shutil.which("prometheus") else {}
        train.send_signal(signal.SIGTERM)
        yield Seen(folder / "run", text, results, train.wait(SECONDS), log.read_text())
    finally:
        train.kill()
        train.wait()


def asked_of_prometheus(port: int, folder: Path, log: Path) -> dict[str, int]:
    """How many values Prometheus finds by each expression, once it has two scrapes."""
    own = free_port()
    (folder / "prometheus.yml").write_text(
        f"scrape_configs: [{{job_name: run, scrape_interval: 1s, static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}]"
    )
    flags = [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "prometheus.log").open("w") as out:
        server = subprocess.Popen(
            ["prometheus", *flags, f"--web.listen-address=127.0.0.1:{own}"], stdout=out, stderr=out
        )

    def count(expression: str) -> int:
        query = urllib.parse.urlencode({"query": expression.replace("$run", ".*")})
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{own}/api/v1/query?{query}", timeout=20.0) as answer:
                return len(json.load(answer)["data"]["result"])
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from None
        except OSError:
            return 0

    try:
        wait_until(
            lambda: count("rate(reverb_dqn_process_cpu_seconds[1m])"),
            "Prometheus has seen the run twice",
            end_of(log),
        )
        return {expression: count(expression) for _, expression in expressions()}
    finally:
        server.terminate()
        server.wait()


@pytest.mark.slow
def test_every_process_shows_how_it_is_under_its_labels(seen: Seen) -> None:
    roles = {(labels["role"], labels["index"]) for labels in (dict(labels) for _, labels in seen.values)}
    expected = {("collector", "0"), ("collector", "1"), ("learner", "0"), ("evaluator", "0"), ("replay", "0")}
    assert roles == expected | {("supervisor", "0")}
    for name, labels in seen.values:
        assert set(dict(labels)) >= OWN, name
        assert dict(labels)["run"] == "run"
        assert name.startswith("reverb_dqn_")
    for name in (
        "health_alive",
        "health_ready",
        "health_restarts",
        "process_resident_bytes",
        "health_last_sign_seconds",
    ):
        assert sum(found == f"reverb_dqn_{name}" for found, _ in seen.values) == len(roles), name
    sizes = {
        dict(labels)["role"]: value for (name, labels), value in seen.values.items() if name == "reverb_dqn_replay_size"
    }
    assert set(sizes) == {"learner", "replay"}


@pytest.mark.slow
def test_names_are_those_of_tensorboard(seen: Seen) -> None:
    names = {name for name, labels in seen.values if dict(labels)["role"] == "learner"}
    written = tags_of(seen.folder / "tensorboard")
    assert TAGS["learner"] <= written
    scalars = {tag for tag in written if not tag.startswith(("result/", "_", "run/", "pictures/", "custom"))}
    histograms = {"learner/td_errors", "learner/q_values", "replay/data_ages_gradient_steps"}
    late = {tag for tag in scalars if tag.startswith("system/checkpoint")}  # of the last checkpoint
    assert {name_of(tag) for tag in scalars - histograms - late} <= names


@pytest.mark.slow
def test_a_run_that_logs_json_logs_nothing_else(seen: Seen) -> None:
    assert seen.code == 1, "it was interrupted"
    lines = [json.loads(line) for line in seen.log.splitlines()]
    assert {(line["run"], line["role"], line["index"]) for line in lines} == {("run", "supervisor", 0)}
    assert any("/metrics, /healthz and /readyz are served at 127.0.0.1:" in line["message"] for line in lines)
    of_libraries = re.compile(r"\[reverb/cc/|WARNING: All log|[IWE]0000|\d{4}-\d\d-\d\d .*tensorflow")
    for name, index in (("learner", 0), ("collector-0", 0), ("collector-1", 1), ("evaluator", 0), ("replay-0", 0)):
        texts = (seen.folder / "logs" / f"{name}.log").read_text().splitlines()
        said = [json.loads(text) for text in texts if not of_libraries.match(text)]
        assert said, name
        assert {(line["role"], line["index"], line["life"]) for line in said} == {(name.partition("-")[0], index, 0)}
        assert "ends with exit code" in said[-1]["message"]


# The dashboard.


def expressions() -> Iterator[tuple[str, str]]:
    """Title of the panel, and expression."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


def test_the_dashboard_has_what_grafana_knows_and_nothing_else() -> None:
    register_default_plugins()
    written = json.loads(DASHBOARD.read_text())

    def understood(dashboard: Any) -> Any:
        return json.loads(json.dumps(Dashboard.from_json(dashboard), cls=JSONEncoder))

    assert contains(understood(written), written)
    written["panels"][1]["fieldConfig"]["defaults"]["unti"] = "s"
    assert not contains(understood(written), written), "a field that it does not know is seen"


def contains(larger: Any, smaller: Any) -> bool:
    if isinstance(smaller, dict):
        return all(key in larger and contains(larger[key], value) for key, value in smaller.items())
    if isinstance(smaller, list):
        return len(larger) == len(smaller) and all(map(contains, larger, smaller))
    return bool(larger == smaller)


def test_panels_have_numbers_of_their_own_and_do_not_lie_on_each_other() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    cells = [
        (x, y)
        for place in places
        for x, y in itertools.product(
            range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        )
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) == 23


def test_legends_name_labels_that_the_expression_keeps() -> None:
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", []):
            named = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            grouped = reads(target["expr"]).grouped
            assert not grouped or named <= grouped, target


@pytest.mark.slow
def test_every_expression_of_the_dashboard_reads_what_a_run_shows(seen: Seen) -> None:
    labels_of: dict[str, set[str]] = {}
    for name, labels in seen.values:
        labels_of.setdefault(name, set()).update(dict(labels))
    for title, expression in expressions():
        found = reads(expression)
        assert found.metrics, title
        for metric in found.metrics:
            assert metric in labels_of, (title, expression)
        for metric, label in found.matched:
            assert label in labels_of[metric], (title, expression)
        assert found.grouped <= set.union(*(labels_of[metric] for metric in found.metrics)), (title, expression)
        for metric, role in re.findall(r'(\w+){run=~"\$run", role="(\w+)"}', expression):
            shown = {dict(labels)["role"] for name, labels in seen.values if name == metric}
            assert role in shown, (title, expression)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="Debian's prometheus is not installed")
def test_prometheus_finds_values_by_every_expression(seen: Seen) -> None:
    assert {expression for _, expression in expressions()} == set(seen.results)
    assert [expression for expression, count in seen.results.items() if not count] == []


# Roles by hand.


@pytest.mark.slow
def test_a_role_that_hangs_is_no_more_alive_for_kubernetes_and_systemd(tmp_path: Path) -> None:
    replay, log = f"127.0.0.1:{free_port()}", tmp_path / "collector.log"
    sets = [
        "collect.collectors=1", "collect.lanes=2", "collect.stall_seconds=5.0", "stop.target_return=1e9",
        'environment.id=""', 'environment.import_path="environments_that_fail:Hanging"', "evaluation.enabled=false",
        f'environment.kwargs.marker="{tmp_path / "hung"}"', "replay.min_size=128", 'learner.loop="plain"',
    ]  # fmt: skip
    flags = ["--config=cartpole", f"--replay={replay}", *(f"--set={line}" for line in sets)]
    with contextlib.ExitStack() as stack:
        sockets = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="operators-")))
        systemd = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        systemd.bind(str(sockets / "notify"))
        systemd.setblocking(False)
        heard: list[str] = []

        def hears(word: str) -> int:
            with contextlib.suppress(BlockingIOError):
                while True:
                    heard.extend(systemd.recv(4096).decode().splitlines())
            return heard.count(word)

        def start(role: str, *more: str, **variables: str) -> subprocess.Popen[bytes]:
            out = stack.enter_context((tmp_path / f"{role}.log").open("wb"))
            line = command("pipeline.role", f"--role={role}", *flags, *more)
            process = subprocess.Popen(line, stdout=out, stderr=out, cwd=tmp_path, env={**environment(), **variables})
            stack.callback(lambda: (process.kill(), process.wait()))
            return process

        start("learner", "--embedded", f"--run_dir={tmp_path / 'learner'}", f"--metrics=unix:{sockets / 'learner'}")
        asked = {"NOTIFY_SOCKET": str(sockets / "notify"), "WATCHDOG_USEC": "1500000"}
        collector = start("collector", f"--metrics=unix:{sockets / 'collector'}", "--run=by-hand", **asked)
        wait_until(lambda: hears("READY=1"), "systemd hears that the collector is ready", end_of(log))
        assert fetched(sockets / "collector", "/readyz") == fetched(sockets / "collector", "/healthz") == "ok\n"
        assert 'run="by-hand"' in fetched(sockets / "collector", "/metrics")
        assert 'run="cartpole-0"' in fetched(sockets / "learner", "/metrics")
        assert hears("WATCHDOG=1")
        wait_until(
            lambda: not fetched(sockets / "collector", "/healthz"),
            "its health is no longer 200",
            end_of(log),
        )
        assert "reverb_dqn_health_alive" in fetched(sockets / "collector", "/metrics"), "and it still says so"
        wait_until(
            lambda: hears("") == 0 and any("STATUS=collector-0 has given no" in word for word in heard),
            "why",
            end_of(log),
        )
        alive = hears("WATCHDOG=1")
        time.sleep(2.0)
        assert hears("WATCHDOG=1") == alive
        assert fetched(sockets / "learner", "/healthz") == "ok\n", "who waits for it does not hang"
        collector.send_signal(signal.SIGABRT)  # as systemd does then
        assert collector.wait(60.0) == -signal.SIGABRT
    words = log.read_text()
    assert "in a step of its environment" in words
    assert "environments_that_fail.py" in words, "the log has where each thread was"
