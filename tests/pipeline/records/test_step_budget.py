"""A budget of environment steps that is shared out: kept by all collectors together, whoever reports when."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.experiment.config import parse
from pipeline.messages.contents import Announcement, Counts
from pipeline.records.counters import Counters
from pipeline.records.ledger import Ledger


class Process:
    """A collector that steps as far as the newest announcement it has fetched lets it."""

    def __init__(self, name: str, lanes: int) -> None:
        self.name, self.lanes, self.steps = name, lanes, 0
        self.heard = Announcement(0, 0, allowances={})

    def step(self, most: int, resets: int) -> None:
        """Some vector steps, in each of which some lanes are reset."""
        for _ in range(most):
            if self.steps + self.lanes > self.heard.allowance(self.name):
                return
            self.steps += max(0, self.lanes - resets)


def hear(ledger: Ledger, process: Process) -> None:
    ledger.count(process.name, Counts(environment_steps=process.steps))
    ledger.hear(process.name)
    ledger.allowances()  # they are published again and again


@settings(max_examples=60)
@given(st.data())
def test_all_collectors_together_exceed_a_budget_by_less_than_one_vector_step(data: st.DataObject) -> None:
    lanes, collectors = data.draw(st.integers(1, 9), "lanes"), data.draw(st.integers(1, 5), "collectors")
    budget = data.draw(st.integers(lanes * collectors, 4_000), "budget")
    lines = (f"collect.lanes={lanes}", f"collect.collectors={collectors}", "replay.min_size=1", "agent.n_step=1")
    sizes = ("replay.steps_per_item=1", f"learner.batch_size={lanes}", f"stop.environment_steps={budget}")
    ledger = Ledger(parse("", (*lines, *sizes)), Counters())
    processes = [Process(f"collector-{index}.0", lanes) for index in range(collectors)]
    kinds = ("step", "report", "fetch", "replace")
    for _ in range(data.draw(st.integers(0, 40), "events")):  # in any order
        process, kind = data.draw(st.sampled_from(processes)), data.draw(st.sampled_from(kinds))
        if kind == "step":
            process.step(data.draw(st.integers(1, 300)), data.draw(st.integers(0, lanes)))
        elif kind == "report":
            hear(ledger, process)
        elif kind == "fetch":
            process.heard = Announcement(0, 0, allowances=ledger.allowances())
        elif (
            len(ledger.counters.processes) == collectors
        ):  # it has been killed, its record is read, and another follows
            ledger.accept_ended(process.name, Counts(environment_steps=process.steps), -9)
            name, _, number = process.name.partition(".")
            processes[processes.index(process)] = Process(f"{name}.{int(number) + 1}", lanes)
    for _ in range(1_000):  # and then in turn, until the budget is spent
        if ledger.is_collected:
            break
        for process in processes:
            hear(ledger, process)
            process.heard = Announcement(0, 0, allowances=ledger.allowances())
            process.step(10_000, 0)
    for process in processes:
        hear(ledger, process)
    assert budget <= ledger.counters.environment_steps < budget + lanes


def test_without_a_budget_nobody_is_held() -> None:
    ledger = Ledger(parse(""), Counters())
    told = msgspec.structs.replace(Announcement(0, 0), allowances=ledger.allowances())
    assert told.allowance("anyone") == float("inf")
