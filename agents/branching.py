"""Values and policies of actions of several dimensions: action branching (Tavakoli et al. 2018, arXiv 1711.08946).

All dimensions share a torso, and each has a branch of its own: a network's outputs are those of all branches side by
side, [B, S, ...]. The losses take them apart as rows, [B * D, n, ...]: D for each example, one a dimension, as if each
were an example with an action of its own. Smaller dimensions are filled up to the largest size n with choices that are
forbidden. One thing joins the rows of an example: they learn from one target, the mean of theirs.

An action of one dimension is learned as one number is, bit for bit.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from tf_agents.policies import greedy_policy, tf_policy
from tf_agents.trajectories import policy_step

from agents import losses
from agents.specs import Specs
from agents.td_agent import Errors, NStepTransitions, loss_info
from agents.value_network import batch_size_of

_Kind = TypeVar("_Kind")


class OneNumber:
    """Actions of one number: every example is its own and only row."""

    count = 1

    def rows(self, values: tf.Tensor) -> tf.Tensor:
        """The outputs of each dimension [B * D, n, ...], of [B, S, ...]."""
        return values

    def masks(self, mask: tf.Tensor | None, batch: Any) -> tf.Tensor | None:
        """What is allowed of each row, bool [B * D, n], by a mask [B, S] or none; None allows all."""
        del batch
        return mask

    def choices(self, action: tf.Tensor) -> tf.Tensor:
        """The choice of each row, int [B * D], of actions [B] or [B, D]."""
        return action

    def repeated(self, values: tf.Tensor) -> tf.Tensor:
        """What all rows of an example have in common, [B * D, ...] of [B, ...]."""
        return values

    def mean(self, values: tf.Tensor) -> tf.Tensor:
        """The mean over each example's rows, [B, ...] of [B * D, ...]."""
        return values

    def total(self, values: tf.Tensor) -> tf.Tensor:
        """The sum over each example's rows, [B, ...] of [B * D, ...]; at least the lowest float, not -inf."""
        return values

    def allows(self, mask: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
        """Whether masks bool [B, S] allow all of the actions, bool [B]."""
        return tf.gather(mask, action, batch_dims=1)


class Dimensions(OneNumber):
    """Actions of several dimensions; see `OneNumber` for what the methods return.

    Args:
      sizes: of the D dimensions.
    """

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self.sizes, self.count, self.largest = sizes, len(sizes), max(sizes)
        self._exists = np.arange(self.largest) < np.array(sizes)[:, np.newaxis]  # [D, n]

    def rows(self, values: tf.Tensor) -> tf.Tensor:
        """See `OneNumber`; 0 where a dimension has no such choice."""
        inner = values.shape[2:]
        if not self._exists.all():
            further = [[0, 0] for _ in inner]
            parts = zip(self.sizes, tf.split(values, self.sizes, axis=1), strict=True)
            filled = [tf.pad(part, [[0, 0], [0, self.largest - size], *further]) for size, part in parts]
            values = tf.stack(filled, axis=1)
        return tf.reshape(values, (-1, self.largest, *inner))

    def masks(self, mask: tf.Tensor | None, batch: Any) -> tf.Tensor | None:
        """See `OneNumber`; `batch` is B."""
        if mask is not None:
            return self.rows(tf.cast(mask, tf.bool))
        return None if self._exists.all() else tf.tile(tf.constant(self._exists), (batch, 1))

    def choices(self, action: tf.Tensor) -> tf.Tensor:
        """See `OneNumber`."""
        return tf.reshape(action, (-1,))

    def repeated(self, values: tf.Tensor) -> tf.Tensor:
        """See `OneNumber`."""
        return values if self.count == 1 else tf.repeat(values, self.count, axis=0)

    def mean(self, values: tf.Tensor) -> tf.Tensor:
        """See `OneNumber`."""
        return values if self.count == 1 else tf.reduce_mean(self._of_examples(values), axis=1)

    def total(self, values: tf.Tensor) -> tf.Tensor:
        """See `OneNumber`."""
        if self.count == 1:
            return values
        return tf.maximum(tf.reduce_sum(self._of_examples(values), axis=1), values.dtype.min)

    def allows(self, mask: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
        """See `OneNumber`."""
        chosen = tf.one_hot(self.choices(action), self.largest, True, False, dtype=tf.bool)
        return tf.reduce_all(self._of_examples(tf.reduce_any(chosen & self.rows(mask), axis=1)), axis=1)

    def _of_examples(self, values: tf.Tensor) -> tf.Tensor:
        return tf.reshape(values, (-1, self.count, *values.shape[1:]))


def dimensions_of(specs: Specs) -> OneNumber:
    """How outputs, masks and actions of an environment become rows."""
    return Dimensions(specs.action_sizes) if specs.action_sizes else OneNumber()


class SharedFeatures(tf.keras.layers.Layer):  # type: ignore[misc]
    """Features that several streams of a network share: the same forwards, their gradient divided by the streams.

    The paper divides the gradient that the branches and the state's value send into the last shared layer by their
    number, D + 1 (section "Action Branching Agents"). Without dueling there are D streams.
    """

    def __init__(self, streams: int) -> None:
        super().__init__()
        self._streams = streams

    def call(self, features: tf.Tensor) -> tf.Tensor:
        """The same features."""

        @tf.custom_gradient  # type: ignore[misc]
        def divided(shared: tf.Tensor) -> Any:
            return tf.identity(shared), lambda upstream: upstream / self._streams

        return divided(features)


def head(builder: Any, features: tf.Tensor, outputs: int | None, is_dueling: bool, repeats: Any = 1) -> tf.Tensor:
    """Makes a branch for each of several dimensions: their numbers side by side, [B, S], or [B, S, outputs].

    Args:
      builder: a `NetworkBuilder`.
      features: float32 [B * repeats, n], of the shared torso.
      outputs: numbers a choice; None for one.
      is_dueling: whether the branches share a value of the state.
      repeats: see `NetworkBuilder.dense`.
    """
    sizes = builder.specs.action_sizes
    features = SharedFeatures(len(sizes) + is_dueling)(features)
    advantages = builder.dense(features, sum(sizes) * (outputs or 1), repeats=repeats)
    if outputs is not None:
        advantages = tf.reshape(advantages, (-1, sum(sizes), outputs))
    if not is_dueling:
        return advantages
    value = builder.dense(features, outputs or 1, repeats=repeats)
    return dueling(value if outputs is None else value[:, tf.newaxis], advantages, sizes)


def dueling(value: tf.Tensor, advantages: tf.Tensor, sizes: tuple[int, ...]) -> tf.Tensor:
    """V + A_d - mean(A_d) of each dimension d: all share the state's value (Tavakoli et al. 2018, equation 1).

    Args:
      value: float32 [B, 1], or [B, 1, N].
      advantages: float32 [B, S], or [B, S, N].
      sizes: of the dimensions, S in all.
    """
    parts = tf.split(advantages, sizes, axis=1)
    centred = [part - tf.reduce_mean(part, axis=1, keepdims=True) for part in parts]
    return value + tf.concat(centred, axis=1)


class BranchPolicy(tf_policy.TFPolicy):  # type: ignore[misc]
    """Chooses each dimension by itself: by the softmax of its scores, or epsilon-greedily.

    Args:
      specs: of the environment.
      time_step_spec: of the same.
      action_spec: of the same.
      network: observations, step types and state -> rows and state.
      scores_of: scores [B * D, n] of what the network puts out.
      epsilon: the probability with which each dimension is drawn uniformly and not the best; None takes the softmax.
    """

    def __init__(
        self,
        specs: Specs,
        time_step_spec: Any,
        action_spec: Any,
        network: Any,
        scores_of: Callable[[tf.Tensor], tf.Tensor] = lambda outputs: outputs,
        epsilon: float | None = None,
    ) -> None:
        super().__init__(time_step_spec, action_spec, policy_state_spec=network.state_spec)
        self._given = specs, time_step_spec, action_spec, network, scores_of
        self._of, self._masked = Dimensions(specs.action_sizes), specs.masked
        self._network, self._scores_of, self._epsilon = network, scores_of, epsilon

    def exploring(self, epsilon: float) -> "BranchPolicy":
        """The same, epsilon-greedily."""
        return BranchPolicy(*self._given, epsilon)

    def _variables(self) -> Any:
        return self._network.variables

    def _distribution(self, time_step: Any, policy_state: Any) -> policy_step.PolicyStep:
        observation, mask = time_step.observation if self._masked else (time_step.observation, None)
        outputs, policy_state = self._network(
            observation, step_type=time_step.step_type, network_state=policy_state, training=False
        )
        allowed = self._of.masks(mask, batch_size_of(observation))
        scores = losses.masked_q(self._scores_of(outputs), allowed)
        if self._epsilon is not None:
            share = tf.ones_like(scores) if allowed is None else tf.cast(allowed, tf.float32)
            share /= tf.reduce_sum(share, axis=1, keepdims=True)
            best = tf.one_hot(tf.argmax(scores, axis=1), self._of.largest)
            scores = tf.math.log(self._epsilon * share + (1.0 - self._epsilon) * best)
        logits = tf.reshape(scores, (-1, self._of.count, self._of.largest))
        each = tfp.distributions.Categorical(logits=logits, dtype=self.action_spec.dtype)
        return policy_step.PolicyStep(tfp.distributions.Independent(each, 1), policy_state)


class BranchingPolicies:
    """Gives a `TdAgent` the policies of actions of several dimensions; to be put before the agent's class."""

    _specs: Specs
    _q_network: Any
    _epsilon_greedy: float

    def _check_action_spec(self, action_spec: Any) -> None:
        """TF-Agents' own refuses actions of more than one number."""
        self._num_actions = int(np.max(action_spec.maximum)) + 1  # of a row

    def _setup_policy(self, time_step_spec: Any, action_spec: Any, *_: Any) -> tuple[Any, Any]:
        network = acting = self._q_network
        if network.noise_units:
            from agents.noisy import NoisyView

            acting = NoisyView(network)
        given = self._specs, time_step_spec, action_spec
        greedy = greedy_policy.GreedyPolicy(BranchPolicy(*given, network, self._scores_of))
        return greedy, BranchPolicy(*given, acting, self._scores_of, self._epsilon_greedy)

    def _scores_of(self, outputs: tf.Tensor) -> tf.Tensor:
        """Q-values [B * D, n] of what the network puts out, which may be logits of distributions."""
        mean: Any = getattr(self, "_mean", None)
        return mean(outputs) if mean else outputs


class BranchingErrors(BranchingPolicies):
    """Has a `TdAgent` that learns from n-step transitions learn each dimension as a transition of its own.

    The loss is the mean over the dimensions (Tavakoli et al. 2018, equation 8), and so is the priority: theirs is the
    sum, by a constant factor the same. What a kind's `_errors` passes to `_shared`, the target, becomes the mean over
    the dimensions: of values r + gamma / D sum_d Q_d(s', a_d) (equation 6). Of distributions it is the mixture, of
    quantiles their mean at each fraction, of Munchausen's soft values and bonuses their means.
    """

    _transitions: Any
    _errors: Any

    def _shared(self, target: tf.Tensor) -> tf.Tensor:
        dimensions = Dimensions(self._specs.action_sizes)
        return dimensions.repeated(dimensions.mean(target))

    def _of_rows(self, values: tf.Tensor) -> tf.Tensor:
        """What an example's rows have in common, [B * D, ...] of [B, ...]; what all examples share stays [1, ...]."""
        return values if values.shape[0] == 1 else Dimensions(self._specs.action_sizes).repeated(values)

    def _loss(self, experience: Any, weights: Any = None, training: bool = False, **_: Any) -> Any:
        batch = self._transitions(experience)
        dimensions, valid = Dimensions(self._specs.action_sizes), batch.folded.valid
        rows = _as_rows(batch, dimensions)
        errors: Errors = self._errors(rows, training)
        loss, td_error, priority = (
            tf.where(valid, dimensions.mean(part), 0.0) for part in (errors.loss, errors.td_error, errors.priority)
        )
        allowed = losses.allowed_where(rows.mask_tm1, rows.folded.valid)
        return loss_info(Errors(loss, td_error, priority, errors.q_tm1), rows.action, weights, allowed)


def _as_rows(batch: NStepTransitions, dimensions: Dimensions) -> NStepTransitions:
    """Each dimension's transition; observations stay, as networks make rows of them."""
    size, folded = batch_size_of(batch.observation_tm1), batch.folded
    return batch._replace(
        mask_tm1=dimensions.masks(batch.mask_tm1, size),
        action=dimensions.choices(batch.action),
        mask_t=dimensions.masks(batch.mask_t, size),
        folded=folded._replace(
            reward=dimensions.repeated(folded.reward),
            discount=dimensions.repeated(folded.discount),
            valid=dimensions.repeated(folded.valid),
        ),
    )


def branching(kind: type[_Kind], base: type[BranchingPolicies] = BranchingErrors) -> type[_Kind]:
    """The class of agents of a kind for actions of several dimensions."""
    return type(f"Branching{kind.__name__}", (base, kind), {"__doc__": kind.__doc__})


def suited(kind: Any, specs: Specs, config: Any) -> Any:
    """The class of a kind's agents for an environment's actions, with the parts of the loss that the config adds."""
    if config.demonstrates:
        from agents.demonstrations import demonstrating

        return demonstrating(kind)
    return branching(kind) if specs.action_sizes else kind
