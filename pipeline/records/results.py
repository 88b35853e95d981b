"""A run's status while it goes on and its summary when it has ended: the contents of two files. No TensorFlow."""

import msgspec

from pipeline.records.counters import Account

EXIT_CODES = {
    "target_return": 0,
    "environment_steps": 0,
    "gradient_steps": 0,
    "seconds": 0,
    "callback": 0,
    "nothing_learned": 3,
    "stalled": 3,
    "diverged": 4,
    "interrupted": 1,
    "failed": 1,
    "refused": 2,
}
"""Exit code of a run by its stop reason."""

UNWRITTEN_SUMMARY = 5
"""Exit code of a learner's process whose run has ended in good order but for `UnwrittenSummary`."""
ENVIRONMENT_FAULT = 6
"""Exit code of a role's process whose environment breaks its contract too often: another one would not help."""


class UnwrittenSummary(Exception):
    """The disk does not take the summary of a run that has ended; carries what to tell the user."""


class Summary(msgspec.Struct, frozen=True):
    """`summary.json` of a run."""

    solved: bool
    """Whether an evaluation reached the target return; false where there is none."""
    stop_reason: str
    seed: int
    environment_steps: int
    gradient_steps: int
    episodes: int
    mean_return: float | None
    """Of the last evaluation."""
    startup_seconds: float
    """From the command's start until the learner was ready to train: imports, first weights, compilation."""
    train_seconds: float
    """From then until the decision to stop, those before a resume included."""
    filling_seconds: float
    """Of these, since this start: until the replay was filled and the first gradient steps were done."""
    environment_steps_per_second: float
    gradient_steps_per_second: float
    samples_per_insert: float
    """Windows learned from for each one stored."""
    lost_transitions: int
    dropped_episodes: int = 0
    """Cut off by a fault of their environment; they are not in `episodes`."""
    newest_fault: str = ""
    """Environment, lane, step and what was wrong."""
    skipped_updates: int = 0
    """Gradient steps that changed nothing, as loss or gradient was not finite."""
    rollbacks: int = 0
    """Of the learner to a checkpoint, as updates were skipped in a row."""
    shielded_steps: int = 0
    """Environment steps of collectors in which the shield forbade what would have been the best action."""
    best_mean_return: float | None = None
    info: dict[str, float] = {}
    """Of the last evaluation, the means of `collect.info_keys`."""
    dataset_returns: dict[str, float] = {}
    """Offline: mean of the dataset's whole episodes, mean of the best tenth of them, and how many there are."""
    evaluations: int = 0
    account: Account | None = None
    """How many windows are stored, on their way or lost."""
    message: str = ""
    """Why the run ended, where its stop condition does not say it; also checkpoints that could not be written."""
    failed_checkpoints: int = 0
    refused_reports: int = 0
    refused_draws: int = 0
    mirrored_gradient_steps: int | None = None
    """Of the newest checkpoint in `checkpoint.mirror`; None without one."""
    support: tuple[float, float] | None = None
    """First and last atom that agent.v_min = "auto" or v_max has become; None where the config gives both."""
    started_anew: list[str] = []
    """Layers for which `agent.initial_policy` had no weights that fit, and why."""
    dataset_windows: int = 0
    """Windows drawn of `offline.dataset` beside what collectors store, each time counted; `account.drawn` has both."""

    @property
    def reason(self) -> str:
        """Why the run ended, in a line."""
        return f"{self.stop_reason}: {self.message}" if self.message else self.stop_reason


class Status(msgspec.Struct, frozen=True):
    """`status.json`: what a run does now."""

    phase: str
    environment_steps: int
    gradient_steps: int
    episodes: int
    train_seconds: float
    environment_steps_per_second: float
    gradient_steps_per_second: float
    samples_per_insert: float
    replay_size: int
    episode_return: float | None
    """Mean of the last 100 training episodes."""
    evaluation_return: float | None
    evaluation_std: float | None
    recent_evaluations: list[tuple[float, float]]
    """Training seconds and mean return of the newest evaluations, in the order of their arrival."""
    epsilon: float
    loss: float | None
    resident_bytes: dict[str, int]
    shielded_steps: int = 0
    episode_info: dict[str, float] = {}
    """Means of `collect.info_keys` over the last 100 training episodes that have them."""
    evaluation_info: dict[str, float] = {}
    """And over the newest evaluation's."""
    account: Account | None = None
    """How many windows are stored, on their way or lost."""
    dropped_episodes: int = 0
    newest_fault: str = ""
    bytes_per_transition: float | None = None
    """Sent by collectors over TCP, as they or else the replay count, for each window confirmed; None before that."""
    mirrored_gradient_steps: int | None = None
    refused_reports: int = 0
    refused_draws: int = 0
    bottleneck: str = ""
    """The role that the others wait for, and what to change; empty while it is not known."""
    support: tuple[float, float] | None = None
    """See `Summary.support`."""
    warnings: list[str] = []
    """What is wrong with the run, and what to change; empty while nothing is."""


class StopRequest(msgspec.Struct, frozen=True):
    """`stop.json`: what whoever began the run asks the learner's process for."""

    stop_reason: str
    """"callback", or "failed"."""
    message: str


class Ended(Exception):
    """The run cannot go on; carries the stop reason and what to tell the user."""

    def __init__(self, stop_reason: str, message: str) -> None:
        super().__init__(message)
        self.stop_reason = stop_reason
