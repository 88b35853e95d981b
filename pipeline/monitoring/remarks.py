"""What there is to add to a run's result: how often its shield stepped in, what was dropped and what was lost."""

from pipeline.experiment.sections import Experiment
from pipeline.records.counters import Account
from pipeline.records.results import Summary


def remarks(experiment: Experiment, summary: Summary) -> list[str]:
    """What there is to add to it."""
    found = []
    if experiment.environment.shield:
        found.append(f"The shield stepped in at {share(summary.shielded_steps, summary.environment_steps)}.")
    if summary.dropped_episodes:
        found.append(
            f"{summary.dropped_episodes:,} episodes were dropped for faults; the newest: {summary.newest_fault}"
        )
    if losses := lost(summary.account):
        found.append(f"Transitions lost: {losses}.")
    return found


def lost(account: Account | None) -> str:
    """What has been lost, by what; empty if nothing has."""
    losses = {name: count for name, count in (account.lost if account else {}).items() if count}
    return ", ".join(f"{count:,} ({name})" for name, count in losses.items())


def share(shielded_steps: int, environment_steps: int) -> str:
    """Of the environment steps, in words."""
    percent = 100.0 * shielded_steps / max(1, environment_steps)
    return f"{shielded_steps:,} of {environment_steps:,} environment steps ({percent:.2f} %)"
