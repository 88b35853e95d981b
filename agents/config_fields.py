"""Parts of the agents' configurations: the base struct, fields that several have, and the properties of every kind."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np
from msgspec import Meta

from agents.specs import Specs
from agents.struct_types import KindMeta


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A section of an experiment: frozen, typed, without unknown fields.

    Constructors check no types; `pipeline.experiment.config.validate` does.
    """

    def __post_init__(self) -> None:
        """Gives values from Python the form that they have when they come from TOML."""
        for name in self.__struct_fields__:
            value = getattr(self, name)
            value = as_toml_has_it(list(value) if type(value) is tuple else value)
            msgspec.structs.force_setattr(self, name, tuple(value) if type(value) is list else value)


def as_toml_has_it(value: Any) -> Any:
    """A copy of lists and tables in which NumPy's scalars are Python's; other values are left as they are."""
    try:
        if type(value) is dict:
            return {key: as_toml_has_it(item) for key, item in value.items()}
        if type(value) is list:
            return [as_toml_has_it(item) for item in value]
    except RecursionError:  # it holds itself, which `validate` refuses
        return value
    is_scalar = isinstance(value, np.bool_ | np.integer | np.floating | np.str_)
    return value.item() if is_scalar and not isinstance(value, np.timedelta64) else value


class Schedule(Config, frozen=True):
    """How a field's value moves with the gradient steps. Without points it stays as the field has it."""

    shape: Annotated[
        Literal["linear", "cosine", "exponential", "piecewise"],
        Meta(
            description="Between points: straight, half a cosine, straight in the logarithm (of a discount in that of "
            "1 - gamma), or constant until the next one."
        ),
    ] = "linear"
    points: Annotated[
        tuple[tuple[int, float], ...],
        Meta(
            description="Steps, rising, and the values at them; the field's own is that at 0, and the last one stays."
        ),
    ] = ()

    def values(self, initial: float) -> tuple[float, ...]:
        """The field's own value and those of the points."""
        return (initial, *(value for _, value in self.points))


# Fields that several configurations have, some with other defaults.
NStep = Annotated[int, Meta(ge=1, le=100, description="Rewards summed before bootstrapping, in environment steps.")]
Dueling = Annotated[bool, Meta(description="Split the head into state value and advantages (Dueling DQN).")]
Noisy = Annotated[
    bool, Meta(description="Dense layers with learned noise, which explores (Noisy nets, Fortunato et al. 2018).")
]
ConservativeWeight = Annotated[
    float, Meta(ge=0.0, description="Weight of the penalty of CQL (Kumar et al. 2020, equation 4); 0 has none.")
]
ErrorLoss = Annotated[
    Literal["huber", "mse"], Meta(description="Loss of one TD error: Huber with delta 1, or half its square.")
]
HiddenUnits = Annotated[
    tuple[Annotated[int, Meta(ge=1)], ...], Meta(description="Units of each dense layer behind the encoder.")
]
Activation = Annotated[Literal["relu", "tanh", "elu"], Meta(description="Activation of the hidden layers.")]
ImageTorso = Annotated[
    Literal["nature", "impala", "minatar"],
    Meta(
        description="Convolutions in front of images: of Mnih et al. 2015, the residual ones of Espeholt et al. 2018, "
        "or the one of Young and Tian 2019."
    ),
]
Torso = Annotated[
    str,
    Meta(
        description="`module:function` of your own, or a registered one, between observations and dense layers, in the "
        "place of image_torso: maps each float or uint8 array, as float32 [B, ...], with the seeds of its initial "
        "weights and the name of the activation to features [B, ...]. Empty takes ours."
    ),
]
NormalizeObservations = Annotated[
    bool,
    Meta(
        description="Shift and scale float observations by their running mean and deviation, which are weights of the "
        "network: published and saved with it."
    ),
]
LayerNorm = Annotated[
    bool,
    Meta(
        description="Normalise each example's features before the activation of every hidden layer, and each pixel's "
        "channels before those of image_torso's convolutions (Ba et al. 2016)."
    ),
]
Residual = Annotated[
    bool,
    Meta(
        description="Each hidden layer is a residual block of two, the inner one four times as wide, with layer "
        "normalisation before them and before the head (SimBa, Lee et al. 2025)."
    ),
]
SpectralNorm = Annotated[
    Literal["none", "last_hidden", "residual", "all"],
    Meta(
        description="Layers whose kernel is divided by its largest singular value (Miyato et al. 2018): the last "
        "hidden one (Gogianu et al. 2021), those of residual blocks (Clark et al. 2025), or all before the head."
    ),
]
TorsoWidth = Annotated[int, Meta(ge=1, le=16, description="Factor of the filters of image_torso's convolutions.")]
TorsoPooling = Annotated[
    Literal["none", "max", "average"],
    Meta(description="Pooling between image_torso and the dense layers, to torso_cells a side."),
]
TorsoCells = Annotated[int, Meta(ge=1, le=64, description="Cells of a side behind torso_pooling, at most its pixels.")]
Optimizer = Annotated[
    str,
    Meta(
        extra={"ours": ("adam", "adamw", "radam", "rmsprop")},
        description="Adam (Kingma and Ba 2015), with weight_decay (AdamW, Loshchilov and Hutter 2019) or rectified "
        "(RAdam, Liu et al. 2020), or centred RMSProp (Mnih et al. 2015); or a function (variables, config) of yours.",
    ),
]
RmsPropDecay = Annotated[
    float, Meta(ge=0.0, lt=1.0, description="RMSProp's decay of the mean gradient and the mean squared gradient.")
]
RmsPropEpsilon = Annotated[
    float, Meta(gt=0.0, description="RMSProp's epsilon, added to the variance of the gradient within the root.")
]
WeightDecay = Annotated[
    float,
    Meta(
        ge=0.0,
        description="Share of themselves that kernels lose in an update, times the step size, beside the gradient; not "
        "of optimizer='adam'.",
    ),
]
ClipValue = Annotated[
    float,
    Meta(
        ge=0.0, description="Largest absolute value of a gradient's numbers, clipped before its norm; 0 does not clip."
    ),
]
LearningRateSchedule = Annotated[
    Schedule, Meta(description="Of learning_rate, by updates; in the place of learning_rate_decay_steps.")
]
NStepSchedule = Annotated[
    Schedule, Meta(description="Of n_step, rounded, by gradient steps; windows are stored for the largest n.")
]
DiscountSchedule = Annotated[Schedule, Meta(description="Of discount, by gradient steps.")]
LearningRate = Annotated[float, Meta(gt=0.0, description="Adam's step size at the first update.")]
FinalLearningRate = Annotated[
    float, Meta(gt=0.0, description="Adam's step size once learning_rate_decay_steps have passed.")
]
DecaySteps = Annotated[
    int,
    Meta(
        ge=0,
        description="Updates of linear decay of the step size, one a gradient step (of ppo and pqn epochs * "
        "minibatches); 0 keeps it constant.",
    ),
]
TargetUpdatePeriod = Annotated[
    int,
    Meta(
        ge=0,
        description="Gradient steps between updates of the target network; 0 takes 200 where they copy the weights "
        "(target_update_tau = 1), and 1 where they mix them.",
    ),
]
TargetUpdateTau = Annotated[
    float, Meta(gt=0.0, le=1.0, description="Share of the online weights in an update; 1 copies them.")
]
HlGauss = Annotated[
    bool,
    Meta(
        description="Learn each Q-value as the mean of a histogram, by cross-entropy with a normal distribution around "
        "its target (HL-Gauss, Farebrother et al. 2024); `loss` has no say then."
    ),
]
Open = Literal["auto"]
"""Of a number that the run decides by itself."""
LeastReturn = Annotated[
    float | Open,
    Meta(
        description="The least return that is learned: the support's first point. auto decides by the first rewards "
        "that are learned from, and the run keeps it (docs/agents.md)."
    ),
]
LargestReturn = Annotated[
    float | Open, Meta(description="The largest return that is learned: the support's last point. auto as in v_min.")
]
AdamEpsilon = Annotated[
    float,
    Meta(
        gt=0.0,
        description="Adam's epsilon, added to the root of the second moment before the moment's bias is corrected, as "
        "Keras does; PyTorch and optax add it afterwards, where it weighs less in the first thousand updates.",
    ),
]
ClipNorm = Annotated[float, Meta(ge=0.0, description="Largest global norm of a gradient; 0 does not clip.")]
Discount = Annotated[float, Meta(ge=0.0, le=1.0, description="Gamma, the discount of one environment step.")]
RewardClip = Annotated[float, Meta(ge=0.0, description="Learn from rewards clipped to [-c, c]; 0 does not clip.")]


class KindOfAgent:
    """What the rest of a run asks of a kind's configuration: the windows of frames it learns from, and its values.

    msgspec takes an object of this class for a field as it is; `pipeline.experiment.config.typed` makes it of a table.
    """

    __slots__ = ()

    paper: ClassVar[str] = ""
    """The paper whose name the kind bears, if that has settings outside of the agent."""
    paper_settings: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Fields of other sections as that paper has them: what a config does not give is taken from here."""
    builder: ClassVar[str] = ""
    """Of a kind that is not ours: `module:function` of a function like `agents.builder.MakeAgent`."""
    shapes_network: ClassVar[tuple[str, ...]] = ()
    """Of the fields that a class adds, those that give stored weights shape or meaning: a resumed run keeps them."""
    initial_policy: str

    @property
    def kind(self) -> str:
        """The kind's name, as `agents.builder.builder_of` takes it."""
        raise NotImplementedError

    @property
    def window_length(self) -> int:
        """Frames of one window."""
        raise NotImplementedError

    @property
    def stride(self) -> int:
        """Steps from the start of one window of a lane to the start of the next."""
        return 1

    @property
    def lead(self) -> int:
        """Frames at the beginning of a window that are not learned from."""
        return 0

    @property
    def learned_frames(self) -> slice:
        """The frames of a window that are learned from, unless they are an episode's end."""
        return slice(0, 1)

    @property
    def state_units(self) -> int:
        """Width of the recurrent state that a policy carries from step to step and that frames store; 0 for none."""
        return 0

    @property
    def remembers(self) -> bool:
        """Whether a policy with a state acts by it; else states of zeros act, but in collectors."""
        return self.state_units > 0

    def begin_states(self, state: Any, begins: Any, random: Any) -> None:
        """Prepares a collector's states, [lanes, state_units], for the lanes' next step; `begins`, bool [lanes]."""
        del random
        state[begins] = 0.0

    @property
    def priority_unit(self) -> Literal["return", "rescaled return", "nat", ""]:
        """What the learner's priorities are measured in; empty where there are none.

        "return" is that of absolute n-step TD errors, which collectors compute, too, from the Q-values that they act
        by.
        """
        return "return"

    @property
    def open_fields(self) -> tuple[str, ...]:
        """Fields that are "auto": whoever builds the agent decides them."""
        return tuple(name for name in ("v_min", "v_max") if getattr(self, name, None) == "auto")

    @property
    def on_policy(self) -> bool:
        """Whether the kind is on-policy: each window is used once, by the weights that collected it."""
        return False

    @property
    def batches_ahead(self) -> int:
        """Batches that collectors of an on-policy kind hand over while the learner still learns from one before."""
        return 0

    @property
    def offline_only(self) -> bool:
        """Whether the kind learns from a dataset only, without collectors."""
        return False

    @property
    def batch_parts(self) -> int:
        """What the sequences of a replica's share have to be a multiple of, so that it divides into minibatches."""
        return 1

    @property
    def learns_policy(self) -> bool:
        """Whether the scores of an action are logits of a policy, not Q-values."""
        return False

    @property
    def discount(self) -> float:
        """Gamma; 1 where nothing is learned of discounted returns."""
        return 1.0

    @property
    def largest_discount(self) -> float:
        """The largest gamma of a run, where a schedule moves it."""
        return self.discount

    @property
    def targets_move(self) -> bool:
        """Whether schedules move n or gamma, which collectors do not know of."""
        return False

    @property
    def reward_clip(self) -> float:
        """Rewards are clipped to [-c, c] to learn from them; 0 does not clip."""
        return 0.0

    def soft_reward(self, num_actions: int) -> float:
        """The most that soft values add to the reward of a step."""
        del num_actions
        return 0.0

    def in_units(self, value: float) -> float:
        """A value of returns as the network has it."""
        return value

    def cramped_by(self, smallest: float, largest: float) -> str:
        """Why discounted returns of this range cannot be learned, and what to set; empty if they can."""
        del smallest, largest
        return ""

    def remedies(self) -> list[str]:
        """What to do where Q-values grow beyond what rewards allow, each such as "lower agent.learning_rate"."""
        return ["lower agent.learning_rate"]

    def unsuitable_for(self, specs: Specs) -> str:
        """Why the kind cannot learn an environment of these specs; empty if it can."""
        del specs
        return ""


_OF_TRAINING = ("_schedule", "optimizer", "_decay", "decay_steps", "rmsprop_epsilon")
_OF_NETWORKS = ("residual", "spectral_norm", "_cells", "_width", "_pooling")
"""Ends of the names of fields that most configs leave at their defaults; what they do not fit with is in `fitting`."""


class KindConfig(Config, KindOfAgent, frozen=True, metaclass=KindMeta):
    """The base of every kind's configuration."""

    initial_policy: Annotated[
        str,
        Meta(
            description="Run directory, folder of policies or checkpoints, or export whose weights a new run begins "
            "with, layer by layer where shapes agree. Empty draws all weights."
        ),
    ] = ""

    @property
    def kind(self) -> str:
        """See `KindOfAgent`."""
        return str(self.__struct_config__.tag)

    def __post_init__(self) -> None:
        super().__post_init__()
        # Values of other types are refused where the experiment is checked, by the names of their fields.
        if self._fits_types() and (sentence := self.problem()):
            raise ValueError(sentence)

    def _fits_types(self) -> bool:
        fields = msgspec.structs.fields(self)
        defaults = {field.name: field.default for field in fields if field.name not in self.open_fields}
        pairs = [(type(getattr(self, name)), type(default)) for name, default in defaults.items()]
        return all(given is wanted or (given is int and wanted is float) for given, wanted in pairs)

    def problem(self) -> str:
        """What is wrong with values that fit their types but not each other, and what would do; empty if nothing is."""
        fields = [field for field in msgspec.structs.fields(self) if field.name.endswith(_OF_TRAINING + _OF_NETWORKS)]
        if all(getattr(self, field.name) == field.default for field in fields):
            return ""
        from agents.configs import fitting

        return fitting.problem(self)
