"""Typed configurations of every kind of agent. No TensorFlow here: processes without it read them, too."""

from typing import Annotated, Literal

from msgspec import Meta

from agents.config_fields import (
    Activation,
    AdamEpsilon,
    ClipNorm,
    ConservativeWeight,
    DecaySteps,
    Discount,
    Dueling,
    ErrorLoss,
    FinalLearningRate,
    HiddenUnits,
    HlGauss,
    ImageTorso,
    KindConfig,
    LargestReturn,
    LayerNorm,
    LearningRate,
    LeastReturn,
    Munchausen,
    MunchausenTemperature,
    Noisy,
    NormalizeObservations,
    NStep,
    RewardClip,
    TargetUpdatePeriod,
    TargetUpdateTau,
    Torso,
    empty_support,
    rising_learning_rate,
)
from agents.specs import CATEGORIES, Specs


class WindowConfig(KindConfig, frozen=True):
    """Fields of all kinds that learn values from windows of n + 1 frames."""

    n_step: NStep = 1
    discount: Discount = 0.99
    reward_clip: RewardClip = 0.0

    @property
    def window_length(self) -> int:
        """Frames of one window: the n-step transition's first frame and its n_step successors."""
        return self.n_step + 1


class DeepConfig(WindowConfig, frozen=True):
    """Fields of all kinds that learn values by a network, a target network and Adam."""

    hidden_units: HiddenUnits = (128, 64)
    activation: Activation = "relu"
    image_torso: ImageTorso = "nature"
    torso: Torso = ""
    normalize_observations: NormalizeObservations = False
    layer_norm: LayerNorm = False
    double: Annotated[bool, Meta(description="Choose the bootstrap action by the online network (Double DQN).")] = True
    dueling: Dueling = False
    noisy: Noisy = False
    noisy_sigma: Annotated[
        float, Meta(gt=0.0, description="Initial scale of the noise, before division by the root of a layer's inputs.")
    ] = 0.5
    learning_rate: LearningRate = 1e-3
    learning_rate_final: FinalLearningRate = 1e-4
    learning_rate_decay_steps: DecaySteps = 0
    adam_epsilon: AdamEpsilon = 1e-7
    gradient_clip_norm: ClipNorm = 10.0
    target_update_period: TargetUpdatePeriod = 0
    target_update_tau: TargetUpdateTau = 1.0

    def problem(self) -> str:
        """See `KindConfig`."""
        return rising_learning_rate(self.learning_rate, self.learning_rate_final, self.learning_rate_decay_steps)


class MunchausenConfig(DeepConfig, frozen=True):
    """Fields of the kinds whose target may be Munchausen's."""

    munchausen: Munchausen = False
    munchausen_scale: Annotated[float, Meta(ge=0.0, le=1.0, description="Alpha, the log-policy's share.")] = 0.9
    munchausen_temperature: MunchausenTemperature = 0.03
    munchausen_floor: Annotated[
        float, Meta(le=0.0, description="l0, the least that tau * log pi is taken to be.")
    ] = -1.0

    def problem(self) -> str:
        """See `KindConfig`."""
        if self.munchausen and self.double:
            return "munchausen=true bootstraps from a softmax: set double=false, there is no maximum to choose"
        return super().problem()


class DqnConfig(MunchausenConfig, frozen=True, tag_field="kind", tag="dqn"):
    """Deep Q-learning (Mnih et al. 2015) with Double (van Hasselt et al. 2016) and Dueling (Wang et al. 2016)."""

    loss: ErrorLoss = "huber"
    hl_gauss: HlGauss = False
    num_bins: Annotated[int, Meta(ge=2, le=1_000, description="Bins of the histogram from v_min to v_max.")] = 51
    v_min: LeastReturn = -10.0
    v_max: LargestReturn = 10.0
    cql_alpha: ConservativeWeight = 0.0

    def problem(self) -> str:
        """See `KindConfig`."""
        return (self.hl_gauss and empty_support(self.v_min, self.v_max)) or super().problem()


class C51Config(MunchausenConfig, frozen=True, tag_field="kind", tag="c51"):
    """Categorical DQN (Bellemare et al. 2017): a distribution of the return over fixed atoms."""

    num_atoms: Annotated[int, Meta(ge=2, le=1_000, description="Atoms of the distribution.")] = 51
    v_min: LeastReturn = -10.0
    v_max: LargestReturn = 10.0

    def problem(self) -> str:
        """See `KindConfig`."""
        return empty_support(self.v_min, self.v_max) or super().problem()

    @property
    def priority_unit(self) -> Literal["return", "rescaled return", "nat", ""]:
        """See `KindConfig`: the divergence of the predicted distribution from its target (Hessel et al. 2018)."""
        return "nat"


class RainbowConfig(C51Config, frozen=True, tag_field="kind", tag="rainbow"):
    """Rainbow (Hessel et al. 2018): C51 with every switch on, priorities, and the network's noise to explore by."""

    paper = "Hessel et al. 2018"
    paper_settings = {
        "replay": {"prioritized": True, "priority_exponent": 0.5},
        "exploration": {"strategy": "greedy"},
    }

    dueling: Dueling = True
    noisy: Noisy = True
    n_step: NStep = 3


class QuantileConfig(MunchausenConfig, frozen=True):
    """Fields of the kinds that learn quantiles of the return."""

    kappa: Annotated[
        float, Meta(gt=0.0, description="Where the quantile Huber loss turns from quadratic to linear.")
    ] = 1.0
    cql_alpha: ConservativeWeight = 0.0


class QrDqnConfig(QuantileConfig, frozen=True, tag_field="kind", tag="qr_dqn"):
    """Quantile-regression DQN (Dabney et al. 2018a): the return's quantiles at fixed fractions."""

    num_quantiles: Annotated[int, Meta(ge=1, le=1_000, description="Quantiles, at the midpoints of equal parts.")] = 50


class IqnConfig(QuantileConfig, frozen=True, tag_field="kind", tag="iqn"):
    """Implicit quantile networks (Dabney et al. 2018b): the return's quantile at any fraction that is asked for."""

    quantile_samples: Annotated[int, Meta(ge=1, description="N, fractions drawn for the values learned.")] = 32
    target_quantile_samples: Annotated[
        int, Meta(ge=1, description="N', fractions drawn for the values bootstrapped from.")
    ] = 32
    acting_quantiles: Annotated[int, Meta(ge=1, description="K, fixed fractions whose mean acts.")] = 32
    embedding_cosines: Annotated[int, Meta(ge=1, description="n, cosines that a fraction is embedded by.")] = 64


class R2d2Config(DeepConfig, frozen=True, tag_field="kind", tag="r2d2"):
    """Recurrent replay (R2D2, Kapturowski et al. 2019), and its plain form (DRQN, Hausknecht and Stone 2015).

    Batch size, replay sizes and samples per insert count sequences.
    """

    paper = "Kapturowski et al. 2019"
    paper_settings = {
        "replay": {
            "prioritized": True,
            "priority_exponent": 0.9,
            "importance_exponent": 0.6,
            "importance_exponent_steps": 0,
        }
    }

    lstm_units: Annotated[int, Meta(ge=1, description="Units of the LSTM behind the hidden layers.")] = 64
    burn_in: Annotated[
        int, Meta(ge=0, description="Frames that only warm the recurrent state up, before those learned from.")
    ] = 8
    sequence: Annotated[int, Meta(ge=1, description="Frames of a sequence that are learned from.")] = 16
    period: Annotated[
        int, Meta(ge=1, description="Steps between the starts of sequences; below `sequence` they overlap.")
    ] = 8
    stored_state: Annotated[
        bool, Meta(description="Start from the state that acted, which frames store; false starts from zeros (DRQN).")
    ] = True
    value_rescaling: Annotated[
        bool, Meta(description="Learn h(Q) = sign(Q)(sqrt(|Q| + 1) - 1) + 0.001 Q (Pohlen et al. 2018).")
    ] = True
    priority_maximum_share: Annotated[
        float, Meta(ge=0.0, le=1.0, description="Eta: a sequence's priority is eta max + (1 - eta) mean of its errors.")
    ] = 0.9
    loss: ErrorLoss = "huber"

    def problem(self) -> str:
        """See `KindConfig`."""
        return "a recurrent network has no noisy form: set noisy=false" if self.noisy else super().problem()

    @property
    def priority_unit(self) -> Literal["return", "rescaled return", "nat", ""]:
        """See `KindConfig`: TD errors of rescaled values, of a sequence (Kapturowski et al. 2019, equation 1)."""
        return "rescaled return"

    @property
    def window_length(self) -> int:
        """Frames of a sequence: burn-in, those learned from, and n more to bootstrap from."""
        return self.burn_in + self.sequence + self.n_step

    @property
    def stride(self) -> int:
        """See `KindConfig`."""
        return self.period

    @property
    def lead(self) -> int:
        """See `KindConfig`: the burn-in."""
        return self.burn_in

    @property
    def learned_frames(self) -> slice:
        """See `KindConfig`: those between the burn-in and the last n."""
        return slice(self.burn_in, self.burn_in + self.sequence)

    @property
    def state_units(self) -> int:
        """See `KindConfig`: the LSTM's output and cell."""
        return 2 * self.lstm_units


class QLearningConfig(WindowConfig, frozen=True, tag_field="kind", tag="q_learning"):
    """Tabular Q-learning (Watkins 1989): one weight a state and action. Observations must be categories."""

    learning_rate: Annotated[
        float, Meta(gt=0.0, le=1.0, description="Share of the TD error that one n-step transition moves its entry by.")
    ] = 0.1
    learning_rate_final: Annotated[
        float, Meta(gt=0.0, le=1.0, description="The same once learning_rate_decay_steps have passed.")
    ] = 0.01
    learning_rate_decay_steps: Annotated[
        int, Meta(ge=0, description="Gradient steps of linear decay of the share; 0 keeps it constant.")
    ] = 0
    initial_value: Annotated[float, Meta(description="Of every entry; above all returns it explores.")] = 0.0

    def problem(self) -> str:
        """See `KindConfig`."""
        return rising_learning_rate(self.learning_rate, self.learning_rate_final, self.learning_rate_decay_steps)

    def unsuitable_for(self, specs: Specs) -> str:
        """See `KindConfig`."""
        wrong = [name or "the observation" for name, spec in specs.leaves().items() if spec.dtype not in CATEGORIES]
        return f"a table needs Discrete or MultiDiscrete observations, and {wrong[0]} is none" if wrong else ""


class PolicyConfig(KindConfig, frozen=True):
    """Fields of all kinds that learn a policy itself, by a network and Adam."""

    hidden_units: HiddenUnits = (64, 64)
    activation: Activation = "tanh"
    image_torso: ImageTorso = "nature"
    torso: Torso = ""
    normalize_observations: NormalizeObservations = False
    layer_norm: LayerNorm = False
    learning_rate: LearningRate = 1e-3
    learning_rate_final: FinalLearningRate = 1e-4
    learning_rate_decay_steps: DecaySteps = 0
    adam_epsilon: AdamEpsilon = 1e-5
    gradient_clip_norm: ClipNorm = 0.5

    def problem(self) -> str:
        """See `KindConfig`."""
        return rising_learning_rate(self.learning_rate, self.learning_rate_final, self.learning_rate_decay_steps)

    @property
    def priority_unit(self) -> Literal["return", "rescaled return", "nat", ""]:
        """See `KindConfig`: there are none."""
        return ""


class BehaviourCloningConfig(PolicyConfig, frozen=True, tag_field="kind", tag="behaviour_cloning"):
    """Behaviour cloning (Pomerleau 1991): the policy that a dataset's actions are likeliest under."""

    @property
    def window_length(self) -> int:
        """See `KindConfig`: an observation and its action, without what followed."""
        return 1

    @property
    def offline_only(self) -> bool:
        """See `KindConfig`."""
        return True


class PolicyGradientConfig(PolicyConfig, frozen=True):
    """Fields of the kinds that learn a policy from its own sequences, which do not overlap and are used once.

    The policy and its baseline have `hidden_units` each. Batch size and samples per insert count sequences.
    """

    rollout: Annotated[
        int,
        Meta(ge=1, description="Frames of a sequence that are learned from; one more, the last, is bootstrapped from."),
    ] = 32
    discount: Discount = 0.99
    reward_clip: RewardClip = 0.0
    normalize_advantages: Annotated[
        bool, Meta(description="Shift and scale the advantages of a gradient step to a mean of 0 and a deviation of 1.")
    ] = True
    entropy_bonus: Annotated[
        float, Meta(ge=0.0, description="Weight of the policy's entropy, in nats, which is to stay large.")
    ] = 0.0
    value_loss_weight: Annotated[
        float, Meta(ge=0.0, description="Weight of half the squared error of the value baseline.")
    ] = 0.5

    @property
    def window_length(self) -> int:
        """Frames of a sequence: those learned from and one to bootstrap from."""
        return self.rollout + 1

    @property
    def learned_frames(self) -> slice:
        """See `KindConfig`: all but the last."""
        return slice(0, self.rollout)

    @property
    def stride(self) -> int:
        """See `KindConfig`.

        Sequences do not share a frame: the weights that chose the action in the last frame of one have been updated
        when the next begins.
        """
        return self.window_length

    @property
    def on_policy(self) -> bool:
        """See `KindConfig`."""
        return True


class ReinforceConfig(PolicyGradientConfig, frozen=True, tag_field="kind", tag="reinforce"):
    """REINFORCE (Williams 1992): the policy gradient with returns to the episode's end."""

    baseline: Annotated[
        bool,
        Meta(
            description="Learn the states' values: returns are judged against them, and bootstrap where a sequence or "
            "a truncation cuts an episode. Without, only frames whose episode ends within their sequence teach."
        ),
    ] = True


class PpoConfig(PolicyGradientConfig, frozen=True, tag_field="kind", tag="ppo"):
    """Proximal policy optimisation (Schulman et al. 2017): several epochs on a batch, with a clipped ratio."""

    gae_lambda: Annotated[
        float,
        Meta(ge=0.0, le=1.0, description="Lambda of the advantages: 0 trusts the values, 1 the returns."),
    ] = 0.95
    clip_ratio: Annotated[
        float, Meta(gt=0.0, description="Epsilon: how far the ratio of new to old probability is worth moving from 1.")
    ] = 0.2
    epochs: Annotated[int, Meta(ge=1, le=100, description="Passes over the batch in a gradient step.")] = 4
    minibatches: Annotated[
        int, Meta(ge=1, le=100, description="Parts of the batch in a pass, each an update of its own.")
    ] = 4

    @property
    def batch_parts(self) -> int:
        """See `KindConfig`."""
        return self.minibatches


AgentConfig = (
    DqnConfig
    | C51Config
    | RainbowConfig
    | QrDqnConfig
    | IqnConfig
    | R2d2Config
    | QLearningConfig
    | BehaviourCloningConfig
    | ReinforceConfig
    | PpoConfig
)
"""The tagged union of every kind's configuration: `kind` in a config file chooses the member."""
