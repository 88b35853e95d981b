"""Values as Prometheus reads them, under TensorBoard's tags: what each role shows, and the text of `/metrics`.

A name is `reverb_dqn_` and the tag, with `_` for all but letters and digits. Every value is a gauge, as a tag's is, and
has the labels `run`, `role` and `index`. No TensorFlow here, and imported only where somebody asked for metrics.
"""

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
import psutil
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from pipeline.messages.contents import CollectorReport, Evaluation
from pipeline.messages.pages import Page
from pipeline.monitoring import metrics
from pipeline.monitoring.health import Health, Number
from pipeline.monitoring.log_lines import Source
from pipeline.records.counters import FAILED, KILLED, RESTARTED, SILENT, UNCONFIRMED, Seen
from pipeline.records.results import Status

KIND = "text/plain; version=0.0.4; charset=utf-8"
"""Of the text, as HTTP says it."""
_PREFIX = "reverb_dqn_"
_CAUSES = (RESTARTED, KILLED, FAILED, UNCONFIRMED, SILENT)


def name_of(tag: str) -> str:
    """The name of a tag's values: "speed/train_seconds" is "reverb_dqn_speed_train_seconds"."""
    return _PREFIX + re.sub("[^a-zA-Z0-9]", "_", tag)


def text(numbers: Iterable[Number], labels: Mapping[str, str]) -> str:
    """What Prometheus reads.

    Args:
      numbers: of one process. Of two tags that have the same name the first is shown.
      labels: of all of them.
    """
    families: dict[str, GaugeMetricFamily] = {}
    tags: dict[str, str] = {}
    for number in numbers:
        name = name_of(number.tag)
        if tags.setdefault(name, number.tag) != number.tag:
            continue
        names = [*labels, *number.labels]
        family = families.setdefault(name, GaugeMetricFamily(name, f"The tag {number.tag}.", labels=names))
        family.add_metric([*labels.values(), *number.labels.values()], number.value)
    return _written(families.values())


def merged(texts: Iterable[str]) -> str:
    """Several processes' texts as one, in which each name stands once."""
    families: dict[str, Metric] = {}
    for one in texts:
        for family in text_string_to_metric_families(one):
            families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            families[family.name].samples += family.samples
    return _written(families.values())


def of_process() -> list[Number]:
    """What the kernel says of this process."""
    process = psutil.Process()
    with process.oneshot():
        times = process.cpu_times()
        own = {
            "process/start_time_seconds": process.create_time(),
            "process/cpu_seconds": times.user + times.system,
            "process/resident_bytes": float(process.memory_info().rss),
        }
    return [Number(tag, value) for tag, value in own.items()]


def of_run(scalars: Mapping[str, float], status: Status | None, servers: Sequence[Seen]) -> list[Number]:
    """What the learner's process shows: of the whole run.

    Args:
      scalars: its newest, by TensorBoard's tags.
      status: its newest; None before the first.
      servers: of the replay, in processes of their own: when they last answered.
    """
    numbers = _numbers(scalars)
    for shard, server in enumerate(servers):
        numbers.append(Number("replay/silent_seconds", time.monotonic() - server.at, {"shard": str(shard)}))
    if status is not None:
        numbers += [
            Number("run/phase", 1.0, {"phase": status.phase}),
            Number("run/warnings", float(len(status.warnings))),
            Number("run/gradient_steps", float(status.gradient_steps)),
            Number("run/environment_steps", float(status.environment_steps)),
            Number("run/episodes", float(status.episodes)),
            Number("run/refused_reports", float(status.refused_reports)),
            Number("run/refused_draws", float(status.refused_draws)),
        ]
        if status.account is not None:
            for field, count in msgspec.structs.asdict(status.account).items():
                if isinstance(count, int):
                    numbers.append(Number(f"ledger/{field}", float(count)))
            lost = dict.fromkeys(_CAUSES, 0) | status.account.lost  # shown before the first, too
            numbers += [Number("ledger/lost", float(count), {"cause": cause}) for cause, count in lost.items()]
    return numbers


def of_reports(reports: Sequence[CollectorReport | Evaluation]) -> list[Number]:
    """What a collector or the evaluator shows: of each value the newest that its reports have, in their order."""
    newest: dict[str, float] = {}
    for report in reports:
        if isinstance(report, CollectorReport):
            newest |= metrics.collector_scalars([report]) | metrics.episode_scalars(report)
        else:
            newest |= metrics.evaluation_scalars(report)
    return _numbers(newest)


def of_replay(info: Any, per_item: int) -> list[Number]:
    """What a server of the replay shows.

    Args:
      info: Reverb's `TableInfo` of the experience.
      per_item: windows in an item.
    """
    limiter = info.rate_limiter_info
    own = {
        "replay/size": float(info.current_size * per_item),
        "replay/capacity": float(info.max_size * per_item),
        "replay/inserted_items": float(limiter.insert_stats.completed),
        "replay/sampled_items": float(limiter.sample_stats.completed),
    }
    return _numbers(own)


def pages(health: Health, source: Source, others: Callable[[], Sequence[str]]) -> dict[str, Callable[[], Page]]:
    """What a process serves, by path; see `pipeline.monitoring.health.shown`."""
    labels = {"run": source.run, "role": source.role, "index": str(source.index)}

    def metrics_page() -> Page:
        lives = Number("health/restarts", float(source.life))
        own = text([*of_process(), lives, *health.numbers(), *of_reports(health.vitals.reports)], labels)
        return Page(merged([own, *found]) if (found := others()) else own, kind=KIND)

    def said(reason: str) -> Page:
        return Page(f"{reason}\n", 503) if reason else Page("ok\n")

    return {
        "/metrics": metrics_page,
        "/healthz": lambda: said(health.fault),
        "/readyz": lambda: said(health.obstacle),
    }


def _numbers(scalars: Mapping[str, float]) -> list[Number]:
    return [Number(tag, value) for tag, value in dict(scalars).items()]


def _written(families: Iterable[Metric]) -> str:
    registry = CollectorRegistry()
    registry.register(_Made(list(families)))
    return generate_latest(registry).decode()


class _Made:
    """Metrics that are there already, as a registry asks for them."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        """All of them."""
        return self._families
