"""The sections of an experiment as frozen typed structs. No TensorFlow here."""

from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta

from agents import Config, ExplorationConfig, config_type
from agents.config_fields import KindOfAgent
from pipeline.experiment.replay_section import OfflineConfig as OfflineConfig
from pipeline.experiment.replay_section import ReplayConfig

_ITEM_WINDOWS = 64
_ITEM_STEPS = 32


class EnvironmentConfig(Config, frozen=True):
    """Which environment is stepped, and how."""

    id: Annotated[
        str,
        Meta(
            description="Gymnasium id, or `module:id` of what a module of yours registers; empty where "
            "import_path names a class."
        ),
    ] = "CartPole-v1"
    import_path: Annotated[
        str,
        Meta(description="`module` to import for its registrations, or `module:Class` of an environment of your own."),
    ] = ""
    kwargs: Annotated[dict[str, Any], Meta(description="Arguments of the environment.")] = {}
    vectorization: Annotated[
        Literal["auto", "vector_entry_point", "sync", "async"],
        Meta(description="Gymnasium's vectorization mode; auto takes the environment's own where it has one."),
    ] = "auto"
    engine: Annotated[
        str,
        Meta(
            extra={"ours": ("gymnasium", "envpool")},
            description="What steps the lanes: gymnasium or the suite's own vector environment, EnvPool's C++, or a "
            "function of yours that makes them, as `pipeline.environments.MakeVector` says.",
        ),
    ] = "gymnasium"
    frame_skip: Annotated[
        int,
        Meta(ge=0, description="Steps that an action is held for, their rewards added up; 0 is the suite's own."),
    ] = 0
    frame_stack: Annotated[
        int,
        Meta(
            ge=1,
            le=16,
            description="Newest observations that the network sees, along the last axis; zeros before an episode's "
            "first. The replay keeps each once.",
        ),
    ] = 1
    previous_step: Annotated[
        bool, Meta(description="Observe the last action and reward, too: parts previous_action and previous_reward.")
    ] = False
    max_episode_steps: Annotated[
        int, Meta(ge=0, description="Steps of the environment that truncate an episode; 0 is its own limit.")
    ] = 0
    discretize: Annotated[
        int, Meta(ge=0, le=1_000, description="Points that each number of a Box action is cut into, evenly; 0: none.")
    ] = 0
    mask_key: Annotated[
        str,
        Meta(
            description="Part of a Dict observation that says which actions are allowed, such as action_mask: it is "
            'obeyed and not observed. Empty takes masks from info["action_mask"] alone.'
        ),
    ] = ""
    image_keys: Annotated[
        tuple[str, ...] | None,
        Meta(
            description="Parts of the observation that are pictures and go through convolutions; one that has no parts "
            'is called "". Left out, pictures are known by their shapes, dtypes and bounds; [] is for none.'
        ),
    ] = None
    image_layout: Annotated[
        Literal["auto", "HWC", "CHW", "HW", "KHWC", "KCHW", "HWCK"],
        Meta(
            description="Order of a picture's axes: height, width, channels, and frames of a stack; auto goes by their "
            "sizes."
        ),
    ] = "auto"
    shield: Annotated[
        str,
        Meta(
            description="`module:function` that maps a batch of observations to the actions allowed, bool [lanes, "
            "actions]; the others are never taken. Empty allows all."
        ),
    ] = ""


class CollectConfig(Config, frozen=True):
    """The collectors."""

    collectors: Annotated[int, Meta(ge=1, description="Collector processes.")] = 1
    max_collectors: Annotated[
        int,
        Meta(
            ge=0,
            description="Collectors that --launcher=ray starts as nodes with room for them join, and that may be "
            "started by hand; 0 is collect.collectors.",
        ),
    ] = 0
    lanes: Annotated[int, Meta(ge=1, description="Environments that a collector steps in lockstep.")] = 16
    threads: Annotated[
        int, Meta(ge=1, description="CPU threads of a network that acts; they spin: more than one is for idle cores.")
    ] = 1
    inference: Annotated[
        Literal["local", "central"],
        Meta(description="Who computes actions: each collector by itself, or one acting server for all of them."),
    ] = "local"
    devices: Annotated[
        str,
        Meta(
            description="GPUs that collectors and evaluator see, as CUDA_VISIBLE_DEVICES names them: '0' or '0,1' for "
            "environments that want some, 'inherit' for those of the command. Empty leaves all to the learner."
        ),
    ] = ""
    faulty_episodes: Annotated[
        float,
        Meta(
            ge=0.0,
            le=1.0,
            description="Share of a process's newest 1,000 episodes that a fault of their environment may cost, at "
            "least one where it is not 0: a fault drops its episode, one beyond 1,000 times the share (rounded down) "
            "ends the run, be there 1,000 yet or not. Evaluations count apart, and end without a result.",
        ),
    ] = 0.01
    info_keys: Annotated[
        tuple[str, ...],
        Meta(
            description="Numbers of your own: keys of the info, or of info['episode'], at an episode's end, such as "
            "is_success. Their means over episodes are in TensorBoard, status, summary and evaluations."
        ),
    ] = ()
    variables_seconds: Annotated[
        float, Meta(gt=0.0, description="Seconds between a process's fetches of weights and counters.")
    ] = 0.05
    report_seconds: Annotated[float, Meta(gt=0.0, description="Seconds between a collector's reports.")] = 0.25
    stall_seconds: Annotated[
        float,
        Meta(
            gt=0.0,
            description="Seconds without an environment step, though neither replay nor learner holds it back, after "
            "which a collector or evaluator counts as hung and is restarted.",
        ),
    ] = 60.0
    away_seconds: Annotated[
        float,
        Meta(
            gt=0.0,
            description="Seconds without a word from the replay, or on-policy without new weights, before a collector "
            "or evaluator gives up: a learner that is restarted with a large replay may take minutes.",
        ),
    ] = 300.0


class LearnerConfig(Config, frozen=True):
    """The learner."""

    batch_size: Annotated[int, Meta(ge=1, description="Windows of a gradient step, over all replicas.")] = 64
    steps_per_call: Annotated[
        int,
        Meta(
            ge=1,
            description="Gradient steps run by one call into TensorFlow; their batches are drawn at once. A config "
            "with replay.prioritized that does not give it has 25: priorities change with each call.",
        ),
    ] = 100
    local_steps: Annotated[
        int,
        Meta(ge=1, description="Gradient steps of each learner of several between means of weights; 1 sums gradients."),
    ] = 1
    loop: Annotated[
        Literal["auto", "compiled", "plain"],
        Meta(description="XLA program or TensorFlow loop around these steps; auto measures both at start."),
    ] = "auto"
    precision: Annotated[
        Literal["float32", "bfloat16"],
        Meta(description="What convolutions and hidden layers multiply in; weights, heads and losses stay float32."),
    ] = "float32"
    bad_updates: Annotated[
        int,
        Meta(
            ge=1,
            description="Updates in a row whose loss or gradient is not finite, and which are skipped, that roll the "
            "learner back to the newest checkpoint.",
        ),
    ] = 10
    rollbacks: Annotated[
        int, Meta(ge=0, description="Rollbacks without recovery_steps between them before the run ends as diverged.")
    ] = 2
    rollback_learning_rate_factor: Annotated[
        float, Meta(gt=0.0, le=1.0, description="What a rollback multiplies the learning rate by, for good.")
    ] = 0.5
    recovery_steps: Annotated[
        int, Meta(ge=1, description="Gradient steps applied after a rollback until it no longer counts.")
    ] = 10_000
    publish_seconds: Annotated[float, Meta(gt=0.0, description="Seconds between publications of weights.")] = 0.05
    stall_seconds: Annotated[
        float, Meta(gt=0.0, description="Seconds without experience before the run ends as stalled.")
    ] = 180.0
    silent_seconds: Annotated[
        float,
        Meta(gt=0.0, description="Seconds without a sign of life, in which a call ends, until a learner is restarted."),
    ] = 120.0


class EvaluationConfig(Config, frozen=True):
    """The evaluator."""

    enabled: Annotated[
        bool,
        Meta(
            description="Make evaluations. Without any, as where only one environment can exist, the mean return of "
            "the newest 100 training episodes decides which policy is the best and whether target_return is reached."
        ),
    ] = True
    episodes: Annotated[int, Meta(ge=0, description="Episodes of an evaluation, with fixed seeds; 0 makes none.")] = 20
    max_episode_steps: Annotated[
        int,
        Meta(
            ge=1,
            description="Steps after which an episode of an evaluation that has not ended is scored as it stands, "
            "unless the environment has a longer limit of its own.",
        ),
    ] = 27_000
    every_steps: Annotated[
        int, Meta(ge=1, description="Environment steps, or offline gradient steps, between evaluations.")
    ] = 2_500
    seed: Annotated[int, Meta(ge=0, description="Seed of the first evaluation episode.")] = 1_000_000
    epsilon: Annotated[
        float, Meta(ge=0.0, le=1.0, description="Probability of a uniform action in place of the best one.")
    ] = 0.0
    kwargs: Annotated[
        dict[str, Any],
        Meta(description="Arguments of the environment in evaluations, over environment.kwargs: a held-out period."),
    ] = {}
    images: Annotated[
        bool,
        Meta(
            description="Show pictures of an episode in TensorBoard now and then, where the environment draws itself "
            "(render_mode 'rgb_array'); it takes at most a twentieth of the evaluator's time."
        ),
    ] = True


class CheckpointConfig(Config, frozen=True):
    """Checkpoints of learner and replay."""

    every_seconds: Annotated[float, Meta(gt=0.0, description="Seconds between checkpoints; one more at the end.")] = (
        300.0
    )
    keep: Annotated[
        int,
        Meta(
            ge=1,
            description="Newest checkpoints kept, beside the first one after the best evaluation, which the link "
            "`checkpoints/best` names.",
        ),
    ] = 2
    mirror: Annotated[str, Meta(description="Folder or s3://bucket/prefix to keep checkpoints in, too.")] = ""


class StopConfig(Config, frozen=True):
    """When the run ends. A budget of 0 is none."""

    target_return: Annotated[
        float | None, Meta(description="Mean evaluation return at which the run counts as solved and ends.")
    ] = None
    target: Annotated[
        str,
        Meta(
            description="What stop.target_return is a value of: return, or one of collect.info_keys, whose mean over "
            "an evaluation's episodes then also decides which policy is the best."
        ),
    ] = "return"
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
    agent: KindOfAgent = msgspec.field(default_factory=lambda: config_type("dqn")())
    exploration: ExplorationConfig = ExplorationConfig()
    replay: ReplayConfig = ReplayConfig()
    offline: OfflineConfig = OfflineConfig()
    collect: CollectConfig = CollectConfig()
    learner: LearnerConfig = LearnerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    stop: StopConfig = StopConfig()

    def seed_of(self, *stream: int) -> int:
        """A seed for one purpose, independent of those for other purposes.

        Args:
          *stream: numbers that name the purpose: 0 the network's first weights, 2 a collector's environments, 4 a
            collector's bonus for novelty; after them come the collector's index and how often it was started before. 5
            renewals of the network, the gradient steps follow.
        """
        return int(np.random.SeedSequence([self.seed, *stream]).generate_state(1)[0] >> 1)

    @property
    def is_offline(self) -> bool:
        """Whether the run learns from a dataset alone."""
        return bool(self.offline.dataset) and self.offline.least_share == 1.0

    @property
    def mixes(self) -> bool:
        """Whether a part of each batch is of a dataset, and the rest of what collectors store."""
        return bool(self.offline.dataset) and not self.is_offline

    @property
    def collected(self) -> "Experiment":
        """The experiment as its replay has it: of a run that mixes, `learner.batch_size` and the ratio are what is
        drawn of the windows that collectors store, when that is most."""
        from pipeline.experiment.validation_without_table import collected

        return collected(self)

    @property
    def collectors(self) -> int:
        """Collectors that run, or may where nodes join."""
        return 0 if self.is_offline else max(self.collect.collectors, self.collect.max_collectors)

    @property
    def evaluates(self) -> bool:
        """Whether evaluations are made; else training episodes tell how good a policy is."""
        return self.evaluation.enabled and self.evaluation.episodes > 0

    @property
    def evaluation_environment(self) -> EnvironmentConfig:
        """The environment as evaluations have it."""
        kwargs = {**self.environment.kwargs, **self.evaluation.kwargs}
        return msgspec.structs.replace(self.environment, kwargs=kwargs)

    def progress(self, environment_steps: int, gradient_steps: int) -> int:
        """What evaluations and TensorBoard's axis go by: environment steps, or offline gradient steps."""
        return gradient_steps if self.is_offline else environment_steps

    @property
    def lanes_per_item(self) -> int:
        """Lanes of one replay item, with 0 resolved."""
        return self.replay.lanes_per_item or (1 if self.replay.prioritized else self.collect.lanes)

    @property
    def steps_per_item(self) -> int:
        """Steps whose windows share a replay item, with 0 resolved."""
        if self.replay.steps_per_item or self.replay.lanes_per_item or self.replay.prioritized or self.agent.stride > 1:
            return self.replay.steps_per_item or 1
        if self.mixes:
            return self.collected.steps_per_item
        # A batch then still draws from many items, and a call's items are many episodes apart.
        wanted = max(_ITEM_WINDOWS, self.learner.batch_size // 4) // self.collect.lanes
        steps = 1 << (min(max(1, wanted), _ITEM_STEPS).bit_length() - 1)
        while steps > 1 and not self._takes_whole_items(self.collect.lanes * steps):
            steps //= 2
        return steps

    def _takes_whole_items(self, windows: int) -> bool:
        drawn, replay = self.learner.batch_size * self.learner.steps_per_call, self.replay
        return drawn % windows == 0 and -(-replay.min_size // windows) <= replay.capacity // windows

    @property
    def windows_per_item(self) -> int:
        """Windows of one replay item."""
        return self.lanes_per_item * self.steps_per_item

    @property
    def items_per_call(self) -> int:
        """Items that the learner draws for one call."""
        return self.learner.batch_size * self.learner.steps_per_call // self.windows_per_item

    @property
    def item_length(self) -> int:
        """Successive frames of one replay item: the windows of its steps overlap."""
        return self.window + self.steps_per_item - 1

    @property
    def window(self) -> int:
        """Frames of a window, with those before it that its first stack needs."""
        return self.agent.window_length + self.environment.frame_stack - 1

    @property
    def lead(self) -> int:
        """Frames at the beginning of a window that nothing is learned from: for the first stack, and to burn in."""
        return self.agent.lead + self.environment.frame_stack - 1
