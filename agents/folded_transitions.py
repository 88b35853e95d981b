"""TF-Agents' transitions, which span their n steps already, as the agents' folded windows."""

from typing import Any

import tensorflow as tf
from tf_agents.trajectories import Transition

from agents import losses


def folded(experience: Transition, reward_clip: float, gamma: Any) -> tuple[Any, tf.Tensor, Any, losses.NStepReturn]:
    """See `TdAgent._fold`, of a `Transition` [B, ...]; `reward_clip` bounds the sum of its rewards."""
    first, action_step, following = experience
    returns = losses.NStepReturn(
        losses.clip_reward(following.reward, reward_clip),
        gamma * following.discount,
        tf.ones_like(first.step_type),
        tf.logical_not(first.is_last()),
    )
    return first.observation, action_step.action, following.observation, returns
