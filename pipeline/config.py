"""An experiment as frozen typed structs: TOML in, validated, TOML out. No TensorFlow here."""

import datetime
import difflib
import math
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args

import msgspec
from msgspec import Meta

from agents import AgentConfig, Config, DqnConfig, ExplorationConfig

_ITEM_TRANSITIONS = 64
_ITEM_STEPS = 32

SHIPPED = Path(__file__).resolve().parent.parent / "configs"


class UsageError(Exception):
    """A mistake of the user's, in one line that says what to do; entry points end with exit code 2."""


class EnvironmentConfig(Config, frozen=True):
    """Which environment is stepped, and how."""

    id: Annotated[str, Meta(description="Gymnasium id; empty where import_path names a class.")] = "CartPole-v1"
    import_path: Annotated[
        str,
        Meta(description="`module` to import for its registrations, or `module:Class` of an environment of your own."),
    ] = ""
    kwargs: Annotated[dict[str, Any], Meta(description="Arguments of the environment.")] = {}
    vectorization: Annotated[
        Literal["auto", "vector_entry_point", "sync", "async"],
        Meta(description="Gymnasium's vectorization mode; auto takes the environment's own where it has one."),
    ] = "auto"


class ReplayConfig(Config, frozen=True):
    """The experience table."""

    capacity: Annotated[int, Meta(ge=1, description="Transitions kept; the oldest leave first.")] = 100_000
    min_size: Annotated[int, Meta(ge=1, description="Transitions inserted before the learner starts.")] = 1_000
    samples_per_insert: Annotated[
        float, Meta(gt=0.0, description="Transitions sampled for each one inserted, held by Reverb's rate limiter.")
    ] = 32.0
    lanes_per_item: Annotated[
        int, Meta(ge=0, description="Environment lanes stored in one Reverb item; 0 stores all of a collector's.")
    ] = 0
    steps_per_item: Annotated[
        int,
        Meta(
            ge=0,
            description="Successive steps whose windows share a Reverb item, which then costs less a transition; 0 "
            "takes 1 if lanes_per_item is given, else a power of two up to 32 that makes items of about 64 transitions "
            "or a quarter of a batch.",
        ),
    ] = 0
    port: Annotated[int, Meta(ge=0, le=65535, description="Port of the Reverb server; 0 takes a free one.")] = 0


class CollectConfig(Config, frozen=True):
    """The collectors."""

    collectors: Annotated[int, Meta(ge=1, description="Collector processes.")] = 1
    lanes: Annotated[int, Meta(ge=1, description="Environments that a collector steps in lockstep.")] = 16
    threads: Annotated[int, Meta(ge=1, description="CPU threads of a collector's Q-network.")] = 1
    variables_seconds: Annotated[
        float, Meta(gt=0.0, description="Seconds between a process's fetches of weights and counters.")
    ] = 0.05
    report_seconds: Annotated[float, Meta(gt=0.0, description="Seconds between a collector's reports.")] = 0.25
    stall_seconds: Annotated[
        float, Meta(gt=0.0, description="Seconds without an insert or a reply from the replay before giving up.")
    ] = 120.0


class LearnerConfig(Config, frozen=True):
    """The learner."""

    batch_size: Annotated[int, Meta(ge=1, description="Transitions of a gradient step, over all replicas.")] = 64
    steps_per_call: Annotated[
        int, Meta(ge=1, description="Gradient steps run by one call into TensorFlow; their batches are drawn at once.")
    ] = 100
    loop: Annotated[
        Literal["auto", "compiled", "plain"],
        Meta(description="XLA program or TensorFlow loop around these steps; auto measures both at start."),
    ] = "auto"
    publish_seconds: Annotated[
        float, Meta(gt=0.0, description="Seconds between publications of weights and counters.")
    ] = 0.05
    stall_seconds: Annotated[
        float, Meta(gt=0.0, description="Seconds without experience before the run ends as stalled.")
    ] = 120.0


class EvaluationConfig(Config, frozen=True):
    """The evaluator."""

    episodes: Annotated[int, Meta(ge=1, description="Greedy episodes of an evaluation, with fixed seeds.")] = 20
    every_steps: Annotated[int, Meta(ge=1, description="Environment steps between evaluations.")] = 2_500
    seed: Annotated[int, Meta(ge=0, description="Seed of the first evaluation episode.")] = 1_000_000


class CheckpointConfig(Config, frozen=True):
    """Checkpoints of learner and replay."""

    every_seconds: Annotated[float, Meta(gt=0.0, description="Seconds between checkpoints; one more at the end.")] = (
        300.0
    )
    keep: Annotated[int, Meta(ge=1, description="Newest checkpoints kept.")] = 2


class StopConfig(Config, frozen=True):
    """When the run ends. A budget of 0 is none."""

    target_return: Annotated[
        float | None, Meta(description="Mean evaluation return at which the run counts as solved and ends.")
    ] = None
    environment_steps: Annotated[int, Meta(ge=0, description="Budget of environment steps of all collectors.")] = 0
    gradient_steps: Annotated[int, Meta(ge=0, description="Budget of gradient steps.")] = 0
    seconds: Annotated[float, Meta(ge=0.0, description="Budget of training seconds, start-up apart.")] = 0.0


class Experiment(Config, frozen=True):
    """Everything that describes a run."""

    seed: Annotated[
        int,
        Meta(ge=0, description="Of environments, initial weights and exploration; Reverb's sampler has none."),
    ] = 0
    environment: EnvironmentConfig = EnvironmentConfig()
    agent: AgentConfig = DqnConfig()
    exploration: ExplorationConfig = ExplorationConfig()
    replay: ReplayConfig = ReplayConfig()
    collect: CollectConfig = CollectConfig()
    learner: LearnerConfig = LearnerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    stop: StopConfig = StopConfig()

    @property
    def lanes_per_item(self) -> int:
        """Lanes of one replay item, with 0 resolved."""
        return self.replay.lanes_per_item or self.collect.lanes

    @property
    def steps_per_item(self) -> int:
        """Steps whose windows share a replay item, with 0 resolved."""
        if self.replay.steps_per_item or self.replay.lanes_per_item:
            return self.replay.steps_per_item or 1
        # A batch then still draws from many items, and a call's items are many episodes apart.
        wanted = max(_ITEM_TRANSITIONS, self.learner.batch_size // 4) // self.collect.lanes
        steps = 1 << (min(max(1, wanted), _ITEM_STEPS).bit_length() - 1)
        while steps > 1 and not self._takes_whole_items(self.collect.lanes * steps):
            steps //= 2
        return steps

    def _takes_whole_items(self, transitions: int) -> bool:
        drawn, replay = self.learner.batch_size * self.learner.steps_per_call, self.replay
        return drawn % transitions == 0 and -(-replay.min_size // transitions) <= replay.capacity // transitions

    @property
    def transitions_per_item(self) -> int:
        """Transitions of one replay item."""
        return self.lanes_per_item * self.steps_per_item

    @property
    def item_length(self) -> int:
        """Successive frames of one replay item: the windows of its steps overlap."""
        return self.agent.window_length + self.steps_per_item - 1


def shipped() -> list[str]:
    """Names of the configs in `configs/`."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def load(name_or_path: str, overrides: tuple[str, ...] = (), seed: int | None = None) -> Experiment:
    """Reads and validates an experiment.

    Args:
      name_or_path: path of a TOML file, or the bare name of a shipped config.
      overrides: lines of TOML such as `agent.n_step=3`, applied in order.
      seed: replaces the file's.

    Raises:
      UsageError: no such file, or a value that cannot be.
    """
    path = Path(name_or_path)
    if not path.is_file():
        path = SHIPPED / f"{name_or_path}.toml"
    if not path.is_file():
        raise UsageError(f"no config {name_or_path!r}: give a path or one of {', '.join(shipped())}")
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None
    return parse(text, overrides, seed, source=str(path))


def parse(text: str, overrides: tuple[str, ...] = (), seed: int | None = None, source: str = "config") -> Experiment:
    """`load` for the text of a config."""
    tree = _toml(text, source)
    for line in overrides:
        _merge(tree, _toml(line, f"--set={line}"))
    if seed is not None:
        tree["seed"] = seed
    _refuse_unknown(tree, Experiment, "")
    _refuse_infinite(tree, "")
    try:
        experiment = msgspec.convert(tree, Experiment)
    except msgspec.ValidationError as error:
        raise UsageError(f"{source}: {_in_words(str(error))}") from None
    validate(experiment)
    return experiment


def dump(experiment: Experiment) -> str:
    """The fully resolved experiment as TOML; `parse` of it gives the same experiment."""
    import tomli_w

    dates = (datetime.date, datetime.datetime, datetime.time)  # TOML has them, so arguments of environments may be some
    tree = msgspec.to_builtins(experiment, builtin_types=dates)
    return tomli_w.dumps({key: _without_none(value) for key, value in tree.items()})


def validate(experiment: Experiment) -> None:
    """Refuses values that fit their types but not each other.

    Raises:
      UsageError: says which, and what would do.
    """
    replay, collect, learner = experiment.replay, experiment.collect, experiment.learner
    lanes, steps, transitions = experiment.lanes_per_item, experiment.steps_per_item, experiment.transitions_per_item
    item = f"items of {lanes} lanes" + (f" and {steps} steps" if steps > 1 else "")
    drawn = learner.batch_size * learner.steps_per_call
    problems = [
        (collect.lanes % lanes != 0, f"replay.lanes_per_item={lanes} does not divide collect.lanes={collect.lanes}"),
        (
            drawn % transitions != 0,
            f"learner.batch_size * learner.steps_per_call = {drawn} transitions are not whole {item}: "
            f"change learner.steps_per_call, replay.lanes_per_item or replay.steps_per_item",
        ),
        (
            learner.batch_size > replay.capacity,
            f"learner.batch_size={learner.batch_size} is larger than replay.capacity={replay.capacity}",
        ),
        (
            -(-replay.min_size // transitions) > replay.capacity // transitions,
            f"replay.min_size={replay.min_size} is above replay.capacity={replay.capacity}, in whole {item}: "
            "it would never be reached",
        ),
        (
            replay.capacity < transitions,
            f"replay.capacity={replay.capacity} does not hold one of the {item}",
        ),
        (
            not experiment.environment.id and ":" not in experiment.environment.import_path,
            "environment.id is empty: give a gymnasium id, or environment.import_path='module:Class'",
        ),
    ]
    for is_wrong, sentence in problems:
        if is_wrong:
            raise UsageError(sentence)


def differences(old: Experiment, new: Experiment) -> list[str]:
    """Dotted names of the fields in which two experiments differ."""
    names: list[str] = []

    def compare(a: Any, b: Any, prefix: str) -> None:
        for key in sorted({*a, *b}):
            if isinstance(a.get(key), dict) and isinstance(b.get(key), dict):
                compare(a[key], b[key], f"{prefix}{key}.")
            elif a.get(key) != b.get(key):
                names.append(f"{prefix}{key}")

    compare(msgspec.to_builtins(old), msgspec.to_builtins(new), "")
    return names


def _toml(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        where = source.replace("\n", " ")
        raise UsageError(f"{where}: not TOML: {error} (strings need quotes)") from None


def _merge(tree: dict[str, Any], update: dict[str, Any]) -> None:
    for key, value in update.items():
        if isinstance(value, dict) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        else:
            tree[key] = value


def _refuse_unknown(tree: dict[str, Any], struct: Any, prefix: str) -> None:
    fields = {field.name: field.type for field in msgspec.structs.fields(struct)}
    tag_field = struct.__struct_config__.tag_field
    for key, value in tree.items():
        if key == tag_field:
            continue
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1, cutoff=0.0)
            raise UsageError(f"unknown field {prefix + key!r}; the nearest is {prefix + near[0]!r}")
        section = _struct_of(fields[key], value)
        if section is not None and isinstance(value, dict):
            _refuse_unknown(value, section, f"{prefix}{key}.")


def _refuse_infinite(tree: dict[str, Any], prefix: str) -> None:
    for key, value in tree.items():
        if isinstance(value, dict):
            _refuse_infinite(value, f"{prefix}{key}.")
        elif isinstance(value, float) and not math.isfinite(value) and not prefix.startswith("environment.kwargs"):
            raise UsageError(f"{prefix}{key} must be finite, not {value}")


def _struct_of(annotation: Any, value: Any) -> Any:
    """The struct that a field's value is converted to, if it is one; of a tagged union the one that its tag names."""
    members = get_args(annotation) if isinstance(annotation, type(Union[int, str])) else (annotation,)
    structs = [member for member in members if isinstance(member, type) and issubclass(member, msgspec.Struct)]
    for member in structs:
        config = member.__struct_config__
        if isinstance(value, dict) and config.tag_field and value.get(config.tag_field) == config.tag:
            return member
    return structs[0] if structs else None


def _in_words(message: str) -> str:
    """msgspec's message with the field first: "agent.n_step: Expected `int` >= 1"."""
    text, separator, path = message.partition(" - at `$.")
    path = path.rstrip("`")
    choices = f" (there are {', '.join(_choices(path))})" if text.startswith("Invalid") else ""
    return f"{path}: {text}{choices}" if separator else text


def _choices(path: str) -> list[str]:
    """What a field with a fixed set of values takes."""
    section, _, name = path.partition(".")
    for info in msgspec.inspect.multi_type_info([field.type for field in msgspec.structs.fields(Experiment)]):
        if not isinstance(info, msgspec.inspect.StructType) or not isinstance(info.cls, type):
            continue
        if (section, name) == ("agent", info.tag_field):
            return [str(info.tag)]
        for field in info.fields:
            kind = field.type.type if isinstance(field.type, msgspec.inspect.Metadata) else field.type
            if field.name == name and isinstance(kind, msgspec.inspect.LiteralType):
                return [str(value) for value in kind.values]
    return []


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value
