"""What the learner's process does about updates that were skipped: batches written aside, rollbacks, warnings."""

import logging

from agents import Specs
from pipeline.experiment.run_directory import RunDirectory
from pipeline.experiment.sections import Experiment
from pipeline.learner.divergence import SkippedUpdates, ValueSentinel, Verdict
from pipeline.learner.learner import Learner, Outcome
from pipeline.records.counters import Counters
from pipeline.replay.frames import FrameLayout
from pipeline.replay.sampling import Sample

log = logging.getLogger(__name__)


class Recovery:
    """Judges every call of the learner, and puts its state back when it has gone bad.

    Args:
      experiment: the run.
      specs: of its environment.
      run: its directory.
      learner: whose calls are judged.
      counters: that skipped updates and rollbacks are entered into.
    """

    def __init__(
        self, experiment: Experiment, specs: Specs, run: RunDirectory, learner: Learner, counters: Counters
    ) -> None:
        self._experiment, self._run, self._learner, self._counters = experiment, run, learner, counters
        self._updates = SkippedUpdates(experiment.learner)
        self._layout = FrameLayout.of(experiment, specs)
        self.sentinel = ValueSentinel(experiment, max(specs.action_sizes, default=specs.num_actions))
        self._skipped_here = 0

    @property
    def is_calm(self) -> bool:
        """Whether the newest update was applied: what is not calm is not worth a checkpoint."""
        return self._updates.in_a_row == 0

    @property
    def warnings(self) -> list[str]:
        """For the status."""
        if not self._skipped_here:
            return self.sentinel.warnings
        aside = f"updates were skipped, as loss or gradient was not finite: see a batch in {self._run.bad_batches}"
        return [aside, *self.sentinel.warnings]

    def judge(self, sample: Sample, outcome: Outcome) -> str:
        """Takes what a call has said; rolls back if that is due.

        Returns:
          Why the run has diverged, and what to change; empty unless a rollback is due, and there is nothing to go back
          to or those before did not help.
        """
        steps = self._experiment.learner.steps_per_call
        if len(outcome.skipped) < steps:
            counters = self._counters
            if self._experiment.is_offline:  # no collector reports rewards
                from pipeline.learner.open_support import largest_reward

                counters.largest_reward = max(counters.largest_reward, largest_reward(sample, self._layout))
            self.sentinel.see_rewards(counters.largest_reward)
            for text in self.sentinel.see_values(outcome.q_mean, outcome.q_max, self._learner.gradient_steps):
                log.warning("%s", text)
        if outcome.skipped:
            self._note(sample, outcome.skipped[0], len(outcome.skipped))
        return self._act(self._updates.judge(outcome.skipped, steps), "loss or gradient was not finite")

    def replace_weights(self) -> str:
        """Rolls back from weights that are not finite; returns what `judge` does."""
        return self._act(self._updates.escalate(), "weights were not finite")

    def _note(self, sample: Sample, position: int, count: int) -> None:
        """Counts a call's skipped updates; writes the first batch aside, unless it only continues a row."""
        self._counters.skipped_updates += count
        self._skipped_here += count
        if position == 0 and not self.is_calm:
            return
        number = self._learner.gradient_steps - self._experiment.learner.steps_per_call + position + 1
        from pipeline.learner import bad_batches  # of use when one is found

        sample = sample._replace(trajectory=self._learner.trajectory(sample))
        path = bad_batches.write(self._run.bad_batches, number, bad_batches.arrays_of(sample, position))
        log.warning("%d updates skipped, as loss or gradient was not finite; the first's batch is %s", count, path)

    def _act(self, verdict: Verdict, what: str) -> str:
        if verdict is Verdict.GO_ON:
            return ""
        advice = (
            f"{what} within gradient steps up to {self._learner.gradient_steps}: lower agent.learning_rate, clip "
            "rewards (agent.reward_clip) or gradients (agent.gradient_clip_norm)"
        )
        if verdict is Verdict.DIVERGED:
            return f"{advice}; {self._experiment.learner.rollbacks} rollbacks did not help"
        from pipeline.learner.stored_state import roll_back_to_newest

        if not roll_back_to_newest(self._experiment, self._run, self._learner, self._counters, what):
            return f"{advice}; there was no checkpoint to roll back to"
        return ""
