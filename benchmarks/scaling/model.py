"""What a run of many processes needs and where it is full: pure functions of measured unit costs. Nothing is measured.

A part of a run is a process, or one direction of a host's link. What it is asked for grows with the environment steps
and has a share that does not: publications, fetches and reports come at their own pace.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class UnitCosts:
    """What units of work cost: CPU seconds, all threads of a process together, and bytes over TCP."""

    collect: float
    """A collector's CPU seconds of an environment step: acting, stepping and writing."""
    insert: float
    """The replay's of an item inserted."""
    draw: float
    """The replay's of an item drawn."""
    take: float
    """The learner's of an item drawn from one shard, before it is learned from."""
    take_more: float
    """More of that for each further shard: their streams are read and mixed by threads of their own."""
    learn: float
    """The learner's of a gradient step."""
    publish: float
    """The learner's of a publication of new weights to one server."""
    accept: float
    """The replay's of such a publication."""
    fetch: float
    """The replay's of an announcement handed out."""
    fetch_weights: float
    """The replay's of weights handed out, beside their announcement."""
    report: float
    """The learner's of a collector's report."""
    report_in: float
    """The replay's of a collector's report."""
    step_bytes: float
    """From a collector to the replay, for each transition."""
    drawn_bytes: float
    """From the replay to the learner, for each transition drawn."""
    fetch_bytes: float
    """From the replay to a collector, for each announcement."""
    weights_bytes: float
    """From the replay to a collector, for each set of weights; as many go from the learner to the replay."""
    report_bytes: float
    """From a collector to the replay, for each report; as many go from the replay to the learner."""
    collect_cores: float
    """That one collector uses where nothing holds it back."""
    learn_cores: float
    """That gradient steps use, drawing apart."""


@dataclass(frozen=True)
class Run:
    """The shape of a run."""

    collectors: int
    samples_per_insert: float
    """Transitions drawn for each one inserted."""
    batch_size: int
    windows_per_item: int
    shards: int = 1
    clients_per_relay: int = 0
    """Collectors that fetch from one relay; 0 has no relays."""
    fetches_per_second: float = 20.0
    """Of each collector."""
    publications_per_second: float = 20.0
    reports_per_second: float = 4.0
    """Of each collector."""

    @property
    def relays(self) -> int:
        """Relays, each of which fetches as one collector does."""
        return math.ceil(self.collectors / self.clients_per_relay) if self.clients_per_relay else 0

    @property
    def weights_per_second(self) -> float:
        """Sets of weights that one collector fetches: it finds new ones no more often than they are published."""
        return min(self.fetches_per_second, self.publications_per_second)


@dataclass(frozen=True)
class Host:
    """What one machine has."""

    cores: float
    link: float
    """Bytes a second in each direction."""


@dataclass(frozen=True)
class Demand:
    """What a part is asked for in a second, in cores or bytes."""

    fixed: float
    per_step: float
    """More for each environment step a second of the whole run."""

    def at(self, steps_per_second: float) -> float:
        """The demand at so many environment steps a second."""
        return self.fixed + self.per_step * steps_per_second

    def full_at(self, capacity: float) -> float:
        """Environment steps a second at which the part has no capacity left; infinite if it never comes to that."""
        if self.fixed >= capacity:
            return 0.0
        return (capacity - self.fixed) / self.per_step if self.per_step else math.inf


COLLECTOR, SHARD, LEARNER, RELAY = "a collector", "a shard", "the learner", "a relay"
_MOST_SHARDS = 10_000
_OF_SHARD = ("insert", "draw", "accept", "fetch", "fetch_weights", "report_in")
_OF_LEARNER = ("take", "take_more", "learn", "publish", "report")


def cores(costs: UnitCosts, run: Run) -> dict[str, Demand]:
    """Cores that each kind of process needs; of collectors, shards and relays one of them."""
    items = run.samples_per_insert / run.windows_per_item  # drawn for each environment step
    clients = run.relays or run.collectors
    handing_out = run.fetches_per_second * costs.fetch + run.weights_per_second * costs.fetch_weights
    accepting = run.publications_per_second * costs.accept
    reports = run.collectors * run.reports_per_second
    demands = {
        COLLECTOR: Demand(0.0, costs.collect / run.collectors),
        SHARD: Demand(
            accepting + (clients * handing_out + reports * costs.report_in) / run.shards,
            (costs.insert / run.windows_per_item + items * costs.draw) / run.shards,
        ),
        LEARNER: Demand(
            run.publications_per_second * run.shards * costs.publish + reports * costs.report,
            items * (costs.take + (run.shards - 1) * costs.take_more)
            + run.samples_per_insert / run.batch_size * costs.learn,
        ),
    }
    if run.relays:
        demands[RELAY] = Demand(accepting + run.clients_per_relay * handing_out, 0.0)
    return demands


def links(costs: UnitCosts, run: Run) -> dict[str, Demand]:
    """Bytes a second into and out of the host of one shard, of the learner and of one relay."""
    clients = run.relays or run.collectors
    handing_out = run.fetches_per_second * costs.fetch_bytes + run.weights_per_second * costs.weights_bytes
    publications = run.publications_per_second * (costs.weights_bytes + costs.fetch_bytes)
    reports = run.collectors * run.reports_per_second * costs.report_bytes
    drawn = run.samples_per_insert * costs.drawn_bytes
    demands = {
        f"into {SHARD}": Demand(publications + reports / run.shards, costs.step_bytes / run.shards),
        f"out of {SHARD}": Demand((clients * handing_out + reports) / run.shards, drawn / run.shards),
        f"into {LEARNER}": Demand(reports, drawn),
        f"out of {LEARNER}": Demand(run.shards * publications, 0.0),
    }
    if run.relays:
        demands[f"out of {RELAY}"] = Demand(run.clients_per_relay * handing_out, 0.0)
    return demands


def collectors_fed(run: Run, gradient_steps_per_second: float, steps_per_collector: float) -> float:
    """Collectors whose experience a learner keeps up with.

    Args:
      run: its ratio and batch.
      gradient_steps_per_second: of the learner.
      steps_per_collector: environment steps a second of one.
    """
    return gradient_steps_per_second * run.batch_size / run.samples_per_insert / steps_per_collector


def full_at(costs: UnitCosts, run: Run, host: Host, gradient_steps_per_second: float = math.inf) -> dict[str, float]:
    """Environment steps a second at which each part of a run is full, each process on a host of its own.

    Args:
      costs: measured.
      run: its shape.
      host: of each process but collectors, which have the cores that they can use.
      gradient_steps_per_second: that the learner can do: its own limit, beside the CPU it has.
    """
    of_process = {COLLECTOR: costs.collect_cores}
    parts = {name: demand.full_at(of_process.get(name, host.cores)) for name, demand in cores(costs, run).items()}
    parts |= {name: demand.full_at(host.link) for name, demand in links(costs, run).items()}
    parts["gradient steps"] = gradient_steps_per_second * run.batch_size / run.samples_per_insert
    return parts


def shards_needed(costs: UnitCosts, run: Run, host: Host, steps_per_second: float, most_used: float = 0.7) -> int:
    """The fewest shards, a host each, of which none is asked for more than a share of its cores and its link.

    Args:
      costs: measured.
      run: its shape; the number of its shards has no say.
      host: of each shard.
      steps_per_second: environment steps of the whole run.
      most_used: share of cores and link that may be in use.

    Raises:
      ValueError: no number is enough, as what each shard is sent alone fills it.
    """
    for shards in range(1, _MOST_SHARDS):
        spread = replace(run, shards=shards)
        used = cores(costs, spread)[SHARD].at(steps_per_second) / host.cores
        traffic = links(costs, spread)
        busiest = max(traffic[f"{way} {SHARD}"].at(steps_per_second) / host.link for way in ("into", "out of"))
        if max(used, busiest) <= most_used:
            return shards
    raise ValueError(f"{_MOST_SHARDS} shards are not enough: publications alone ask too much of each")


def on_one_machine(costs: UnitCosts, run: Run, number_of_cores: float) -> float:
    """Environment steps a second of a run whose processes share one machine's cores, none of which is left idle.

    But no collector, and no learner's gradient steps, use more cores than they do alone.
    """
    demands = cores(costs, run)
    times = {COLLECTOR: run.collectors, SHARD: run.shards, RELAY: run.relays}
    fixed = sum(demand.fixed * times.get(name, 1) for name, demand in demands.items())
    per_step = sum(demand.per_step * times.get(name, 1) for name, demand in demands.items())
    return min(
        Demand(fixed, per_step).full_at(number_of_cores),
        run.collectors * costs.collect_cores / costs.collect,
        costs.learn_cores / costs.learn * run.batch_size / run.samples_per_insert,
    )


def fitted(costs: UnitCosts, run: Run, steps_per_second: float, used: Mapping[str, float]) -> UnitCosts:
    """Unit costs that give what a run was seen to use: those of each kind of process are all changed alike.

    Work that is done alone, with a core of its own and its caches for itself, costs less than the same work in a run.

    Args:
      costs: of work done alone.
      run: that was seen.
      steps_per_second: environment steps of it.
      used: cores, by kind of process, all of a kind together.
    """
    demands, times = cores(costs, run), {COLLECTOR: run.collectors, SHARD: run.shards, LEARNER: 1}
    share = {kind: used[kind] / (demands[kind].at(steps_per_second) * number) for kind, number in times.items()}
    of_shard = {name: getattr(costs, name) * share[SHARD] for name in _OF_SHARD}
    of_learner = {name: getattr(costs, name) * share[LEARNER] for name in _OF_LEARNER}
    return replace(costs, collect=costs.collect * share[COLLECTOR], **of_shard, **of_learner)


def error(predicted: float, measured: float) -> float:
    """By how much of the measured value a prediction is off."""
    return predicted / measured - 1.0
