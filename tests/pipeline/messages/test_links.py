"""A collector whose link to the replay is far or narrow, is cut for a while, and breaks, or whose clock is wrong."""

import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from bad_link import BadLink
from waiting import SECONDS, wait_until

from agents import Specs
from pipeline.experiment import config
from pipeline.messages.addresses import Addresses
from pipeline.messages.channel import Publisher, take
from pipeline.messages.contents import REPORTS_TABLE, Array, CollectorReport, Variables
from pipeline.replay.frames import MID, FrameLayout
from pipeline.replay.writer import FrameWriter
from pipeline.roles.collector_role import run_collector
from pipeline.runtime import native

LANES, STEPS = 4, 60


@pytest.fixture
def link_to(request: pytest.FixtureRequest) -> Callable[[Any], BadLink]:
    def make(server: Any) -> BadLink:
        link = BadLink(int(server.address.rpartition(":")[2]))
        request.addfinalizer(link.close)
        return link

    return make


def disturb(link: BadLink, inserted: Callable[[], int]) -> None:
    """A link that is far, then cut, then broken; what passes in between is waited for."""

    def wait_for_more(than: int) -> None:
        wait_until(lambda: inserted() > than, "more has passed")

    def passes() -> bool:
        before = inserted()
        time.sleep(0.5)
        return inserted() > before

    wait_for_more(0)
    link.delay = 0.1
    wait_for_more(inserted())
    link.cut()
    wait_until(lambda: not passes(), "nothing passes, once what had passed already is stored")
    before = inserted()
    link.restore()
    wait_for_more(before)
    link.reset()
    wait_for_more(inserted())
    link.delay = 0.0


def test_every_frame_is_stored_once_as_it_was(
    serve: Any, make_experiment: Any, counting_specs: Specs, link_to: Callable[[Any], BadLink]
) -> None:
    experiment = make_experiment("agent.n_step=1")
    server, layout = serve(experiment, counting_specs), FrameLayout.of(experiment, counting_specs)
    link = link_to(server)
    writer = FrameWriter.of(experiment, layout, f"127.0.0.1:{link.port}")
    frames = layout.empty(LANES)
    frames["step_type"] = frames["next_step_type"] = MID
    disturber = threading.Thread(target=disturb, args=(link, lambda: server.tally().inserted))
    disturber.start()
    deadline = time.monotonic() + SECONDS
    step = 0
    while step < STEPS or disturber.is_alive():
        frames["action"] = np.arange(LANES)
        frames["reward"] = step
        writer.append(frames)
        assert writer.confirm(lambda: time.monotonic() < deadline, everything=True)
        step += 1
    disturber.join()
    assert writer.book.confirmed_windows == (step - 1) * LANES
    assert server.tally().inserted * experiment.windows_per_item == (step - 1) * LANES
    stored = set()
    for sample in server.client.sample(layout.table, 40 * step * LANES, emit_timesteps=False):
        held = np.ascontiguousarray(sample.data[0]).view(layout.dtype).reshape(2, -1)
        stored |= {(int(lane), int(reward)) for lane, reward in zip(held["action"][0], held["reward"][0], strict=True)}
    assert stored == {(lane, reward) for lane in range(LANES) for reward in range(step - 1)}
    writer.close()


def test_a_collector_loses_nothing(
    serve: Any,
    make_experiment: Any,
    counting_specs: Specs,
    link_to: Callable[[Any], BadLink],
    publish: Any,
    receive: Any,
) -> None:
    experiment = make_experiment()
    server = serve(experiment, counting_specs)
    link = link_to(server)
    codes: list[int] = []
    reports = receive(server.address)
    publisher = Publisher([server.address])
    publisher.publish(publish(counting_specs), wait_for_all=True)

    def collect() -> None:
        codes.append(run_collector(experiment, 0, Addresses.of([f"127.0.0.1:{link.port}"]), "p", threading.Event()))

    threading.Thread(target=collect, daemon=True).start()
    disturb(link, lambda: server.tally().inserted)
    publisher.publish(
        msgspec.structs.replace(publish(counting_specs, gradient_steps=1), stopping=True, is_finished=True)
    )
    wait_until(lambda: bool(codes and reports and reports[-1].last), "the collector has left")
    assert codes == [0]
    assert reports[-1].unconfirmed == 0
    assert reports[-1].windows == server.tally().inserted * experiment.windows_per_item
    assert [report.environment_steps for report in reports] == sorted(report.environment_steps for report in reports)
    publisher.close()


READING = """
    import os, sys, threading, time
    from pipeline.experiment.config import parse
    from pipeline.replay.frames import MID, FrameLayout
    from pipeline.environments import describe
    from pipeline.messages.channel import Sender
    from pipeline.messages.contents import REPORTS_TABLE
    from pipeline.messages.variables_reader import VariablesReader
    from pipeline.replay.writer import FrameWriter

    experiment, narrow, versions = parse(sys.argv[1], source="the test"), sys.argv[2], int(sys.argv[4])
    layout = FrameLayout.of(experiment, describe(experiment.environment))
    frames = layout.empty(experiment.collect.lanes)
    frames["step_type"] = frames["next_step_type"] = MID
    deadline = time.monotonic() + 600.0
    writer, reader = FrameWriter.of(experiment, layout, narrow), VariablesReader(narrow, 0.05)
    received = Sender(sys.argv[3], REPORTS_TABLE)
    fetchers = 0
    for version in range(versions):
        while (newest := reader.newest) is None or newest.gradient_steps < version:
            assert time.monotonic() < deadline, "the weights do not arrive"
            writer.append(frames)
            assert writer.confirm(lambda: time.monotonic() < deadline)
            fetchers = max(fetchers, sum(thread.name == "variables" for thread in threading.enumerate()))
            time.sleep(0.05)
        assert received.send(newest.gradient_steps, 100)
    assert writer.confirm(lambda: time.monotonic() < deadline, everything=True)
    print(fetchers, writer.book.confirmed_windows, flush=True)
    os._exit(0)  # without the thread that fetches
"""


def test_large_weights_pass_a_narrow_link_and_are_asked_for_once(
    serve: Any, make_experiment: Any, counting_specs: Specs, link_to: Callable[[Any], BadLink], run_python: Any
) -> None:
    experiment, versions = make_experiment(), 2
    server = serve(experiment, counting_specs)
    link = link_to(server)
    link.delay, link.rate = 0.1, 40_000.0
    large = Array.of(np.random.default_rng(0).normal(size=30_000).astype(np.float32))  # 3 s and more on that link
    publisher = Publisher([server.address])

    def publish() -> None:
        for version in range(versions):
            assert publisher.publish(Variables(version, 0, program=b"", weights=(large,)), wait_for_all=True)
            take(native.reverb_client(server.address), REPORTS_TABLE, int, 1, lambda _: None)

    publishing = threading.Thread(target=publish, daemon=True)
    publishing.start()
    arguments = config.dump(experiment), f"127.0.0.1:{link.port}", server.address, str(versions)
    fetchers, confirmed = map(int, run_python(READING, *arguments).split())
    publishing.join()
    assert fetchers == 1, "slow is not away"
    assert server.tally().inserted * experiment.windows_per_item == confirmed > 0
    publisher.close()


@pytest.mark.parametrize("days", [-1, 1])
def test_a_clock_that_is_a_day_off_changes_nothing(
    serve: Any, make_experiment: Any, counting_specs: Specs, publish: Any, receive: Any, run_python: Any, days: int
) -> None:
    experiment = make_experiment("collect.report_seconds=0.1")
    server = serve(experiment, counting_specs)
    publisher = Publisher([server.address])
    publisher.publish(publish(counting_specs), wait_for_all=True)
    end = msgspec.structs.replace(publish(counting_specs, gradient_steps=1), stopping=True, is_finished=True)

    def stop_it(_: CollectorReport) -> None:
        if len(reports) == 5:
            publisher.publish(end, True)

    reports = receive(server.address, stop_it)
    code = f"""
        import time
        seconds, nanoseconds = time.time, time.time_ns
        time.time = lambda: seconds() + {days} * 86_400
        time.time_ns = lambda: nanoseconds() + {days} * 86_400 * 10**9
        import sys, threading
        from pipeline.messages.addresses import Addresses
        from pipeline.roles.collector_role import run_collector
        from pipeline.experiment.config import parse
        experiment = parse(sys.argv[1], source="the test")
        print(run_collector(experiment, 0, Addresses.of([sys.argv[2]]), "p", threading.Event()))
    """
    started = time.monotonic()
    assert run_python(code, config.dump(experiment), server.address).split() == ["0"]
    seconds = time.monotonic() - started
    wait_until(lambda: bool(reports) and reports[-1].last, "the last report has come")
    assert reports[-1].unconfirmed == 0
    assert reports[-1].windows == server.tally().inserted * experiment.windows_per_item > 0
    assert all(0 <= report.weights_seconds <= seconds for report in reports)
    assert all(0 <= report.blocked_seconds <= seconds for report in reports)
    publisher.close()
