"""Why the learner or the collectors wait for each other at a replay of one server, and what to change."""

from typing import Any

from pipeline.experiment.sections import Experiment

SLOW_COLLECTORS = "see logs/collector-*.log, and raise collect.lanes or collect.collectors if environments are slow"
SLOW_LEARNER = "see logs/learner.log; a smaller network or batch, or a lower replay.samples_per_insert, asks less of it"


def waits_for_collectors(experiment: Experiment, info: Any) -> bool:
    """Whether the rate limiter, or on-policy the queue, holds the learner back; `info` is Reverb's `TableInfo`."""
    return experiment.agent.on_policy or holds_samples_back(info)


def holds_samples_back(info: Any) -> bool:
    """Whether a table's rate limiter gives no sample before there are more inserts."""
    limiter = info.rate_limiter_info
    inserts, samples = limiter.insert_stats.completed, limiter.sample_stats.completed
    if info.current_size < limiter.min_size_to_sample:
        return True
    return bool(inserts * limiter.samples_per_insert - samples - 1 < limiter.min_diff)


def explain(experiment: Experiment, info: Any, items_per_call: int) -> str:
    """Which side the rate limiter holds back, and what to change, in words.

    Args:
      experiment: the run.
      info: Reverb's `TableInfo` of the experience table.
      items_per_call: that the learner draws for one call.
    """
    limiter = info.rate_limiter_info
    inserts, samples = limiter.insert_stats.completed, limiter.sample_stats.completed
    state = (
        f"{inserts} items inserted, {samples} sampled, {info.current_size} of {info.max_size} stored, "
        f"{limiter.samples_per_insert:g} samples per insert wanted"
    )
    if experiment.agent.on_policy:
        return (
            f"the learner waits for collectors: the queue has not had the {items_per_call} items of a batch "
            f"({inserts} inserted, {samples} sampled): {SLOW_COLLECTORS}"
        )
    if info.current_size < limiter.min_size_to_sample:
        return (
            f"the learner waits for collectors: the table has {info.current_size} of the {limiter.min_size_to_sample} "
            f"items that replay.min_size asks for ({state}): {SLOW_COLLECTORS}, or lower replay.min_size"
        )
    if waits_for_collectors(experiment, info):
        return (
            f"the learner waits for collectors, which do not insert ({state}): {SLOW_COLLECTORS}, or raise "
            "replay.samples_per_insert"
        )
    return f"the collectors wait for the learner, which does not sample ({state}): {SLOW_LEARNER}"
