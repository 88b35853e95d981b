"""Asks the servers of a running replay for their sizes and counts. Nothing is sampled: rate limiters count samples.

Where one server holds the ratio, a sample drawn by anyone else lets collectors insert more than the learner has
sampled. Only a replay of several servers, whose ratio is held by permits, could be sampled without
that effect.
"""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from pipeline.datasets.replay_summary import rows, share
from pipeline.experiment.config import UsageError
from pipeline.messages.addresses import respelled
from pipeline.messages.channel import wait_for_server

_WAIT_SECONDS = 10.0
_ANSWER_SECONDS = 10
_EXPERIENCE = "experience_"


class ServerState(NamedTuple):
    """One server when it was asked."""

    address: str
    tables: dict[str, Any]
    """Reverb's `TableInfo`s by name."""
    seconds: float
    """That its answer took."""


def ask(addresses: Sequence[str], seconds: float = _WAIT_SECONDS) -> list[ServerState]:
    """Asks every server for its tables.

    Args:
      addresses: of the servers.
      seconds: to wait for each.

    Raises:
      UsageError: one does not answer in time, or is no replay.
    """
    import reverb  # after the command line has been checked

    states = []
    for address in addresses:
        try:
            wait_for_server(address, seconds, "pipeline.replay")
            asked = time.monotonic()
            tables = reverb.Client(next(respelled(address))).server_info(timeout=_ANSWER_SECONDS)
        except (TimeoutError, RuntimeError, reverb.ReverbError) as error:
            raise UsageError(f"--address={address}: {error}: is the run up, and the port open?") from None
        if not any(name.startswith(_EXPERIENCE) for name in tables):
            raise UsageError(f"--address={address} is a server of Reverb, but no replay of a run")
        states.append(ServerState(address, tables, time.monotonic() - asked))
    return states


def table(states: Sequence[ServerState], windows_per_item: int | None) -> str:
    """The state of servers, as text for a terminal.

    Args:
      states: of the servers.
      windows_per_item: of the run's config; None counts items alone.
    """
    return "\n".join(line for state in states for line in _server(state, windows_per_item))


def _server(state: ServerState, windows_per_item: int | None) -> list[str]:
    lines = [f"server {state.address} answered in {1000 * state.seconds:.0f} ms", ""]
    for name, info in state.tables.items():
        if name.startswith(_EXPERIENCE):
            lines += [*rows(f"table {name}", _experience(info, windows_per_item)), ""]
    others = [(name, f"{info.current_size:,} of {info.max_size:,}") for name, info in state.tables.items()]
    lines += rows("other tables", [pair for pair in others if not pair[0].startswith(_EXPERIENCE)])
    return [*lines, ""]


def _experience(info: Any, windows_per_item: int | None) -> list[tuple[str, str]]:
    limiter, worker = info.rate_limiter_info, info.table_worker_time
    inserted, sampled = limiter.insert_stats.completed, limiter.sample_stats.completed
    pairs = [
        ("items", f"{share(info.current_size, info.max_size)} of {info.max_size:,}"),
        ("items inserted since its start, and removed", f"{inserted:,}, {max(0, inserted - info.current_size):,}"),
        ("items sampled", f"{sampled:,}"),
        ("items that were ever sampled", share(info.num_unique_samples, inserted)),
        ("oldest item, in items inserted since", f"{info.current_size:,}"),
        ("samples per insert", f"{sampled / inserted:.3f}" if inserted else ""),
        ("drawn", "by priority" if info.sampler_options.HasField("prioritized") else "uniformly"),
        ("least items before the learner samples", f"{limiter.min_size_to_sample:,}"),
    ]
    if windows_per_item is not None:
        present = info.current_size * windows_per_item
        pairs.insert(1, ("windows, with those that pad the last items", f"{present:,}"))
    if abs(limiter.max_diff) < 1e300:
        at = inserted * limiter.samples_per_insert - sampled
        held = "collectors wait" if at + limiter.samples_per_insert > limiter.max_diff else ""
        held = held or ("the learner waits" if at - 1 < limiter.min_diff else "neither side waits")
        pairs.append(
            ("rate limiter", f"at {at:,.0f} between {limiter.min_diff:,.0f} and {limiter.max_diff:,.0f}: {held}")
        )
    else:
        pairs.append(("rate limiter", "no ratio: it is held elsewhere, or nobody inserts"))
    total = max(1, worker.running_ms + worker.sleeping_ms + worker.sampling_ms + worker.inserting_ms)
    busy = worker.sampling_ms + worker.inserting_ms
    pairs.append(("time of its worker that went into inserts and samples", f"{busy / total:.1%}"))
    return pairs
