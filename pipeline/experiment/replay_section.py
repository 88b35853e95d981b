"""The sections of an experiment about its replay and about a dataset beside or in place of it. No TensorFlow here."""

from typing import Annotated, Literal

from msgspec import Meta

from agents import Config


class ReplayConfig(Config, frozen=True):
    """The experience table; of an on-policy kind a queue of two batches, of which capacity and min_size say nothing."""

    capacity: Annotated[int, Meta(ge=1, description="Windows kept; the oldest leave first.")] = 100_000
    min_size: Annotated[int, Meta(ge=1, description="Windows inserted before the learner starts.")] = 1_000
    samples_per_insert: Annotated[
        float, Meta(gt=0.0, description="Windows sampled for each one inserted, held by Reverb's rate limiter.")
    ] = 32.0
    lanes_per_item: Annotated[
        int,
        Meta(
            ge=0,
            description="Environment lanes stored in one Reverb item; 0 stores all of a collector's, or one with "
            "prioritized, as an item has one priority: the mean of its windows'.",
        ),
    ] = 0
    steps_per_item: Annotated[
        int,
        Meta(
            ge=0,
            description="Successive steps whose windows share a Reverb item, which then costs less a window; 0 "
            "takes 1 if lanes_per_item is given or with prioritized, else a power of two up to 32 that makes items of "
            "about 64 windows or a quarter of a batch.",
        ),
    ] = 0
    prioritized: Annotated[
        bool, Meta(description="Draw items by the TD errors of their windows (Schaul et al. 2016).")
    ] = False
    priority_exponent: Annotated[
        float, Meta(ge=0.0, le=1.0, description="Alpha: 0 draws uniformly, 1 in proportion to the priorities.")
    ] = 0.6
    importance_exponent: Annotated[
        float, Meta(ge=0.0, le=1.0, description="Beta at the first gradient step: 1 undoes the bias of the drawing.")
    ] = 0.4
    importance_exponent_final: Annotated[
        float, Meta(ge=0.0, le=1.0, description="Beta once importance_exponent_steps have passed.")
    ] = 1.0
    importance_exponent_steps: Annotated[
        int, Meta(ge=0, description="Gradient steps of linear change of beta; 0 keeps it constant.")
    ] = 100_000
    initial_priority: Annotated[
        Literal["largest", "td_error"],
        Meta(
            description="Of new items: the largest of late (it halves in 1,000 gradient steps), or the collector's own "
            "TD error (Horgan et al. 2018)."
        ),
    ] = "largest"
    shards: Annotated[
        int,
        Meta(
            ge=0,
            description="Reverb servers in processes of their own, over which collectors spread, each with its part of "
            "the capacity; 0 has one server in the learner's process, which is the fastest on one machine.",
        ),
    ] = 0
    port: Annotated[int, Meta(ge=0, le=65535, description="Port of the Reverb server; 0 takes a free one.")] = 0
    private: Annotated[
        Literal["auto", "namespace", "loopback", "off"],
        Meta(
            description="What keeps others out of the replay, which asks nobody who they are: a network namespace of "
            "the run's own, in which environments see no network either, or the loopback address, which other users of "
            "this machine reach; auto takes the first that works here. off is for collectors elsewhere."
        ),
    ] = "auto"
    weights_port: Annotated[
        int,
        Meta(
            ge=0,
            le=65535,
            description="Port of a second Reverb server for the weights alone: roles on other hosts, let in by "
            "pipeline.proxy, read nothing else. 0 has none.",
        ),
    ] = 0


class OfflineConfig(Config, frozen=True):
    """A dataset, learned from alone (`exploration`, `collect`, sizes and ratio of `replay` then have no say) or beside
    what collectors store."""

    dataset: Annotated[
        str,
        Meta(
            description="Run directory whose newest checkpoint's replay is learned from, or the folder of a dataset "
            "of `pipeline.replay export` or Minari. Empty collects."
        ),
    ] = ""
    share: Annotated[
        float,
        Meta(
            gt=0.0,
            le=1.0,
            description="Share of each batch that is of the dataset, in whole windows. Of 1, nothing is collected and "
            "evaluations go by gradient steps.",
        ),
    ] = 1.0
    share_final: Annotated[
        float, Meta(ge=0.0, le=1.0, description="The share once share_decay_steps have passed, if that is not 0.")
    ] = 1.0
    share_decay_steps: Annotated[
        int, Meta(ge=0, description="Gradient steps of its linear way there; 0: it stays.")
    ] = 0

    @property
    def least_share(self) -> float:
        """The smallest share of the run."""
        return min(self.share, self.share_final) if self.share_decay_steps else self.share
