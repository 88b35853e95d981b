"""The account at a run's end is of one moment, though servers still take what collectors have on their way."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from agents import Specs
from pipeline.experiment.run_directory import RunDirectory
from pipeline.experiment.sections import Experiment
from pipeline.messages.contents import Counts
from pipeline.messages.ports import free_port
from pipeline.records.counters import SILENT
from pipeline.records.results import Status
from pipeline.replay.frames import FrameLayout
from pipeline.replay.writer import FrameWriter
from pipeline.roles.learner_parts import Place, learner_parts
from pipeline.roles.learner_role import LearningProcess

LANES = 4


def test_what_a_silent_collector_has_stored_while_the_last_checkpoint_is_written_is_lost_and_not_unaccounted(
    make_experiment: Callable[..., Experiment], counting_specs: Specs, tmp_path: Path
) -> None:
    run = RunDirectory(tmp_path)
    experiment, place = make_experiment(f"collect.lanes={LANES}"), Place(free_port(), blocking=False)
    parts = learner_parts(experiment, counting_specs, run, place)
    layout = FrameLayout.of(experiment, counting_specs)
    writer = FrameWriter.of(experiment, layout, parts.replay.address)
    frames = np.stack([layout.empty(LANES)] * 8)

    class Interrupted(LearningProcess):
        def checkpoint(self) -> None:
            assert writer.confirm(lambda: True, everything=True)
            assert self.replay.tally().inserted == writer.book.confirmed_items > 0
            super().checkpoint()

    process = Interrupted(experiment, run, place, parts, started=0.0)
    try:
        for frame in frames:
            writer.append(frame)
        begun = writer.book.begun_windows
        process.ledger.count("collector-0.0", Counts(begun=begun))  # its report: nothing is confirmed yet
        account = process.finish("interrupted").account
    finally:
        writer.close()
        process.replay.stop()  # nothing else was started
    assert account is not None
    assert (account.begun, account.stored, account.lost, account.unaccounted) == (begun, 0, {SILENT: begun}, 0)
    assert msgspec.json.decode(run.status.read_bytes(), type=Status).account == account
