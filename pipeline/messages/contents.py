"""What travels through Reverb beside experience: weights and counters from the learner, reports to it.

Typed msgpack, never pickles. `pipeline.messages.channel` carries it.
"""

import math
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

VARIABLES_TABLE, WEIGHTS_TABLE, REPORTS_TABLE, SERVER_TABLE = "variables", "weights", "reports", "server"
"""Tables of the replay's server: newest announcement, newest weights, reports, what the server says of itself."""
INTERRUPTED = 1
"""Exit code of a role that a signal has told to leave: the run goes on, and the role is to be started again."""
TOLD_TO_LEAVE = 7
"""Exit code of a role whose learner has left before the run had reached its stop condition, and may come back."""


class Array(msgspec.Struct, frozen=True):
    """A NumPy array on its way."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def of(cls, array: NDArray[Any]) -> "Array":
        """A copy of an array."""
        return cls(array.dtype.str, array.shape, array.tobytes())

    def numpy(self) -> NDArray[Any]:
        """The array, read-only."""
        return np.frombuffer(self.data, self.dtype).reshape(self.shape)

    @property
    def is_finite(self) -> bool:
        """Whether all numbers are."""
        return bool(np.isfinite(self.numpy()).all())


class Announcement(msgspec.Struct, frozen=True):
    """What the learner tells all roles again and again: small, so that weights travel only when they have changed."""

    gradient_steps: int
    """Of the weights: their version."""
    environment_steps: int
    """Global count, on which schedules run."""
    initial_priority: float = 1.0
    """Of new items of a prioritised replay."""
    stopping: bool = False
    """The run ends: roles send their last report and leave."""
    evaluate_last: bool = False
    """Of a stopping run: the evaluator scores these last weights before it leaves."""
    life: int = 0
    """Number of earlier starts of the learner. A restarted one has older weights: versions compare this first."""
    renewals: int = 0
    """How often, on-policy, it has asked for experience anew with the weights that it has."""
    evaluated_at: tuple[int, int] | None = None
    """Environment and gradient steps of the newest evaluation that has reached the learner."""
    is_finished: bool = False
    """Of a stopping run: it has reached its stop condition; another one may be resumed."""
    ended: bool = False
    """The learner has left too: replays of their own may end."""
    allowances: dict[str, int] | None = None
    """With a budget of environment steps, how many each process may have taken: see `pipeline.records.step_budget`."""
    is_collected: bool = False
    """The budget of environment steps is spent: collectors complete what they have begun and step no more."""

    @property
    def exit_code(self) -> int:
        """Of a role that leaves, told by this or by a signal: a scheduler starts it again if the run is to go on."""
        return INTERRUPTED if not self.stopping else 0 if self.is_finished else TOLD_TO_LEAVE

    def allowance(self, process: str) -> float:
        """How many environment steps a collector process may have taken in all, a vector step under way included."""
        return math.inf if self.allowances is None else self.allowances.get(process, self.allowances.get("", 0))

    @property
    def version(self) -> tuple[int, int, int]:
        """Of the weights: grows with every publication, also after a restart that lost gradient steps."""
        return self.life, self.renewals, self.gradient_steps


class Weights(msgspec.Struct, frozen=True):
    """The weights of one version, and what acts with them."""

    version: tuple[int, int, int]
    """See `Announcement.version`."""
    program: bytes
    """The Q-network as a TFLite program; empty where actors run it through TensorFlow."""
    arrays: tuple[Array, ...]
    config: str = ""
    """The learner's, as TOML: a role that was started with another one would collect something else."""


class Variables(Announcement, frozen=True, kw_only=True):
    """A publication: the announcement and the weights of the same version."""

    program: bytes
    """See `Weights.program`."""
    weights: tuple[Array, ...]
    config: str = ""
    """See `Weights.config`."""

    @classmethod
    def of(cls, announcement: Announcement, weights: Weights) -> "Variables":
        """Both as one, with the version of the weights: newer ones than were announced may have arrived."""
        life, renewals, gradient_steps = weights.version
        told = msgspec.structs.replace(announcement, life=life, renewals=renewals, gradient_steps=gradient_steps)
        values = msgspec.structs.asdict(told)
        return cls(**values, program=weights.program, weights=weights.arrays, config=weights.config)

    def parts(self) -> tuple[Announcement, Weights]:
        """What travels."""
        told = {name: getattr(self, name) for name in Announcement.__struct_fields__}
        return Announcement(**told), Weights(self.version, self.program, self.weights, self.config)


class Served(msgspec.Struct, frozen=True):
    """What a replay's server in a process of its own says of itself, in its table `server`."""

    identity: str
    """Of its process: another one follows when it is restarted."""
    inserted: int
    """Items that the checkpoint it went on from had inserted and, next, sampled."""
    sampled: int
    is_stored: bool = False
    """Said for a checkpoint that is being written: a server that goes on from it says so, too, for a moment."""
    received: dict[str, int] = {}
    """Bytes that have come to it over TCP, by address and port of who sent them."""


class Counts(msgspec.Struct, frozen=True):
    """Cumulative counts of one collector process. The run's own, `pipeline.records.counters`, have the same names."""

    environment_steps: int = 0
    episodes: int = 0
    begun: int = 0
    """Windows begun: one for every frame handed to the writer."""
    windows: int = msgspec.field(default=0, name="transitions")
    """Of these, those that the replay has confirmed."""
    items: int = 0
    """Items that the replay has confirmed."""
    shielded_steps: int = 0
    """Environment steps in which the shield forbade what would have been the best action."""
    dropped_episodes: int = 0
    """Episodes cut off by a fault of their environment: not among `episodes`, though their environment steps count."""
    bytes_sent: int = 0
    """Over the process's TCP connections, when it last reported; see `pipeline.messages.traffic`."""
    bytes_received: int = 0

    @property
    def unconfirmed(self) -> int:
        """Windows begun that the replay has not confirmed."""
        return self.begun - self.windows

    def __sub__(self, other: "Counts") -> "Counts":
        """What has been added since; never negative, as a machine that went down may have lost the newest counts."""
        pairs = zip(msgspec.structs.astuple(self), msgspec.structs.astuple(other), strict=True)
        return Counts(*(max(0, mine - theirs) for mine, theirs in pairs))

    def __add__(self, other: "Counts") -> "Counts":
        pairs = zip(msgspec.structs.astuple(self), msgspec.structs.astuple(other), strict=True)
        return Counts(*(mine + theirs for mine, theirs in pairs))


class CollectorReport(Counts, frozen=True, kw_only=True, tag="collector"):
    """Cumulative counts of one collector process, and the episodes since its last report."""

    index: int
    process: str
    """Identifies the process: counts start anew in another one."""
    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    epsilon: float
    weights_age: int
    """Gradient steps between the newest publication and the weights acting: 0 unless fetching lags."""
    weights_seconds: float
    """Seconds since these weights arrived."""
    blocked_seconds: float
    """Time spent waiting for the rate limiter or, on-policy, for new weights."""
    resident_bytes: int
    newest_fault: str = ""
    """Environment, lane, step and what was wrong; empty where nothing has been."""
    largest_reward: float = 0.0
    """Largest absolute reward so far, a bonus for novelty included, before the learner clips."""
    info: dict[str, tuple[float, ...]] = {}
    """By key of `collect.info_keys`, the numbers of the episodes that have them, since its last report."""
    last: bool = False
    """The process ends after this report: what is unconfirmed is lost."""
    fault: str = ""
    """Of a last report: what in the environment ended the process."""

    @property
    def counts(self) -> Counts:
        """The cumulative counts alone."""
        return Counts(**{name: getattr(self, name) for name in Counts.__struct_fields__})


class Evaluation(msgspec.Struct, frozen=True, tag="evaluation"):
    """Greedy episodes with the weights of one version."""

    environment_steps: int
    gradient_steps: int
    mean_return: float
    std_return: float
    min_return: float
    max_return: float
    mean_length: float
    episodes: int
    seconds: float
    resident_bytes: int
    is_best: bool
    shielded_share: float = 0.0
    """Of the steps, those in which the shield forbade what would have been the best action."""
    worst_value: float = 0.0
    """Smallest discounted return from any state of these episodes, of rewards as learned from."""
    best_value: float = 0.0
    """Largest discounted return from any state of these episodes, of rewards as learned from: clipped, if so."""
    unfinished: int = 0
    """Of the episodes, those that had not ended: they are scored as they stood."""
    info: dict[str, float] = {}
    """By key of `collect.info_keys`, the mean over the episodes that have it."""
    is_whole: bool = True
    """Whether the evaluation was made as others are; one that the run's end has cut short is compared with none."""

    def score(self, target: str) -> float:
        """What `stop.target` names of it: the mean return, or a number of the user's own; -inf if no episode has it."""
        return self.mean_return if target == "return" else self.info.get(target, -math.inf)

    @property
    def at(self) -> tuple[int, int]:
        """Environment and gradient steps of the weights."""
        return self.environment_steps, self.gradient_steps


class Filmstrip(msgspec.Struct, frozen=True, tag="filmstrip"):
    """Pictures of an episode by the weights of one version; width and height are in pixels."""

    environment_steps: int
    gradient_steps: int
    width: int
    height: int
    png: bytes


Report = CollectorReport | Evaluation | Filmstrip
