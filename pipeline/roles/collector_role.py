"""A collector's process, from its start to its last report. No TensorFlow."""

import functools
import gc
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from agents import Specs
from pipeline import environments
from pipeline.collector.collector import Collector
from pipeline.collector.renewal import hold, renew
from pipeline.collector.turns import Turns
from pipeline.environments import EnvironmentFault
from pipeline.experiment.sections import Experiment
from pipeline.messages.addresses import Addresses
from pipeline.messages.channel import Sender, wait_for_server
from pipeline.messages.contents import REPORTS_TABLE, CollectorReport, Variables
from pipeline.messages.traffic import Traffic
from pipeline.messages.variables_reader import VariablesReader
from pipeline.monitoring.health import Vitals, silence
from pipeline.records.recorder import Recorder

log = logging.getLogger(__name__)

_CONNECT_SECONDS = 300.0
_REPORT_SECONDS = 5.0
_LEAVE_SECONDS = 15.0
"""For the last windows: a writer whose server was restarted just now may not have reached it again."""
_LOG_SECONDS = 10.0
_HOLD_SECONDS = 0.05
"""Between two looks whether there are steps left for a collector that has taken all that it may."""


def run_collector(
    experiment: Experiment,
    index: int,
    addresses: Addresses,
    process: str,
    interrupted: threading.Event,
    recorder: Recorder | None = None,
    incarnation: int = 0,
    specs: Specs | None = None,
    vitals: Vitals | None = None,
    inference: str = "",
) -> int:
    """Collects until the learner says that the run ends; returns the exit code.

    Args:
      experiment: the run.
      index: which of the run's collectors this is, from 0.
      addresses: where it writes frames and reports, and reads weights.
      process: names this process in reports.
      interrupted: ends it.
      recorder: keeps its counts if it is killed, and says that it is alive.
      incarnation: how often this collector was started before; it has a seed stream of its own.
      specs: of the environment, where they are known: else one is made to see.
      vitals: what it shows of itself, to whoever asks.
      inference: address of the acting server; empty acts by itself.

    Raises:
      UsageError: it was started with another config than the learner.
      TimeoutError: the replay did not answer for `collect.away_seconds` or, on-policy, there were no new weights for
        so long.
      EnvironmentFault: an environment broke its contract.
    """
    recorder, vitals = recorder or Recorder(None), vitals or Vitals()
    specs = specs or environments.describe(experiment.environment)
    wait_for_server(addresses.frames, _CONNECT_SECONDS, f"collector {index}")
    reader = VariablesReader(addresses.weights, experiment.collect.variables_seconds, bool(inference))
    newest = reader.join(experiment, _CONNECT_SECONDS, f"collector {index}")
    vitals.obstacle = lambda: silence(reader.refuse_silence, f"collector {index}")
    permits = None
    if experiment.replay.shards > 1:
        from pipeline.replay.shards.permits import Permits

        permits = Permits(experiment, addresses.shards[0])

    def keep_waiting() -> bool:
        recorder.beat()
        reader.refuse_silence(experiment.collect.away_seconds, "a collector")
        current = reader.newest
        return not interrupted.is_set() and not (current is not None and current.stopping)

    make: Callable[..., Collector] = Collector
    if inference:
        from pipeline.collector.central_collector import CentralCollector

        make = functools.partial(CentralCollector, inference, keep_waiting)
    others = {"incarnation": incarnation, "traffic": Traffic(), "permits": permits}
    collector = when_there(
        addresses.frames,
        f"collector {index}",
        lambda: make(experiment, specs, index, process, addresses.frames, newest, **others),
    )
    sender = Sender(addresses.reports, REPORTS_TABLE)
    gc.freeze()  # what is here now stays: collections need not look at it again
    fault: EnvironmentFault | None = None
    try:
        try:
            _collect(experiment, collector, reader, sender, keep_waiting, recorder, vitals)
        except EnvironmentFault as error:
            fault = error
        deadline = time.monotonic() + _LEAVE_SECONDS

        def is_in_time() -> bool:
            recorder.beat()
            return time.monotonic() < deadline

        collector.complete()
        recorder.record(collector.counts)
        collector.confirm(is_in_time, everything=True)
        recorder.record(collector.counts)
        last = collector.report(reader.newest or newest, last=True, fault=str(fault or ""))
        deadline = max(deadline, time.monotonic() + _REPORT_SECONDS)
        while not sender.send(last, _REPORT_SECONDS / 2.0) and is_in_time():
            log.warning("the last report has not arrived, and is sent again")
    finally:
        reader.close()
        sender.close()
        collector.close()
    if fault is not None:
        raise fault
    newest = reader.newest or newest
    return newest.exit_code


def when_there(address: str, who: str, make: Callable[[], Collector]) -> Collector:
    """Makes a collector, once more where the replay's server was killed between two of its answers.

    Args:
      address: of the server.
      who: waits for it.
      make: makes the collector.

    Raises:
      TimeoutError: the server did not come back.
    """
    try:
        return make()
    except RuntimeError as error:  # Reverb's binding has no types of its own for what its connections meet
        log.warning("is made once more when the replay at %s answers: %s", address, error)
        wait_for_server(address, _CONNECT_SECONDS, who)
        return make()


def _collect(
    experiment: Experiment,
    collector: Collector,
    reader: VariablesReader,
    sender: Sender,
    keep_waiting: Callable[[], bool],
    recorder: Recorder,
    vitals: Vitals,
) -> None:
    """Collects and reports until the run ends.

    A collector that has taken all the steps that it may says so at once, stores all that it has once no more will
    follow, and waits. On-policy, no window begins before the weights are new ones. Within one they stay, as the learner
    waits for it.
    """
    on_policy, away_seconds = experiment.agent.on_policy, experiment.collect.away_seconds
    newest = reader.wait(_CONNECT_SECONDS, "a collector")
    turns = Turns(experiment.agent.batches_ahead)
    sending: Future[bool] | None = None
    report_at = log_at = 0.0
    told = (-1, -1)  # environment steps and confirmed windows, in the newest report
    with ThreadPoolExecutor(1, "report") as background:
        while keep_waiting():
            newest = reader.newest or newest
            collector.use(newest)
            is_held, hands_over = not collector.may_step, False
            if is_held:
                _settle(collector, newest, recorder, keep_waiting)
            else:
                collector.step()
                recorder.record(collector.counts)  # before the replay can have got what is counted here
                hands_over = on_policy and collector.has_completed_window
                collector.confirm(keep_waiting, everything=hands_over)
            now = time.monotonic()
            has_news = is_held and told != (collector.environment_steps, collector.counts.windows)
            if (now >= report_at or has_news) and (sending is None or sending.done()):
                report = collector.report(reader.newest or newest)
                told = report.environment_steps, report.windows
                vitals.show(report)
                sending = background.submit(sender.send, report, _REPORT_SECONDS)
                report_at = now + experiment.collect.report_seconds
                if now >= log_at:
                    log.info("%s", _in_words(report))
                    log_at = now + _LOG_SECONDS
            if hands_over:
                renew(collector, reader, keep_waiting, away_seconds, turns.hand_over(collector.version))
            elif is_held:
                hold(collector, reader, keep_waiting)
                time.sleep(_HOLD_SECONDS)


def _settle(collector: Collector, newest: Variables, recorder: Recorder, keep_waiting: Callable[[], bool]) -> None:
    """Has the replay store what a collector that may not step has: all of it, once the run's budget is spent."""
    if newest.is_collected:
        collector.complete()
    recorder.record(collector.counts)
    collector.confirm(keep_waiting, everything=True)


def _in_words(report: CollectorReport) -> str:
    return (
        f"{report.environment_steps} environment steps, {report.episodes} episodes, epsilon {report.epsilon:.3f}, "
        f"weights {report.weights_age} gradient steps and {report.weights_seconds:.2f} s old, "
        f"{report.blocked_seconds:.1f} s held back by the rate limiter or the learner"
    )
