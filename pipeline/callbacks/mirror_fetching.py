"""What a run does with its mirror before it begins: refuses what cannot be one, and fetches what a resume needs."""

import re
import signal
import sys
from pathlib import Path

import msgspec

from pipeline.acting import stored_policies
from pipeline.experiment import config
from pipeline.experiment.config import UsageError
from pipeline.experiment.resume import resumed
from pipeline.experiment.run_directory import RunDirectory, write_atomically
from pipeline.experiment.sections import Experiment
from pipeline.messages.contents import Counts
from pipeline.records.checkpoint import BadCheckpoint, Checkpoint
from pipeline.records.checkpoint_writer import paths
from pipeline.records.counters import Counters
from pipeline.records.object_store import FIELD, Store, newness, reason_of
from pipeline.records.recorder import Recorder

_COLLECTOR = re.compile(r"collector-\d+\.\d{1,6}")
"""Those that were started by hand have numbers drawn by chance."""
CONFIG = "config.toml"
POLICIES = ("policies/best/policy.msgpack", "policies/latest/policy.msgpack")
RESULTS = ("evaluations.jsonl", "summary.json")
"""Mirrored when a checkpoint is, and at the end."""


def prepare(experiment: Experiment, run: RunDirectory, resume: bool, shards: int = 0, under: str = "") -> Experiment:
    """Refuses a mirror that cannot be used; of a run that goes on, fetches what is newer there than here.

    Args:
      experiment: with `checkpoint.mirror`.
      run: its directory, or that of a server of its replay which was started by hand.
      resume: whether the run goes on.
      shards: servers of its replay whose directories are within the run's.
      under: see `Store.checkpoints`.

    Returns:
      The experiment, with the path of a folder made absolute.

    Raises:
      UsageError: it cannot be reached, holds another run, or holds one and this one begins. Nothing has been written.
    """
    experiment = _placed(experiment, run)
    store = Store(experiment.checkpoint.mirror)
    store.check()
    there = store.checkpoints(under)
    if there and not resume:
        raise UsageError(
            f"{FIELD}={store.url!r} holds checkpoints of a run already: continue it with --resume, or choose another "
            "prefix"
        )
    if not resume or run.is_in_use or _is_foreign(run):  # the checks to come say so
        return experiment
    name = f"{under}/{CONFIG}".lstrip("/")
    if not run.config.exists() and there and (text := store.read(name)) is not None:
        stored = config.parse(text.decode(), source=f"{store.url}/{name}")
        resumed(stored, experiment, store.url)
        run.path.mkdir(parents=True, exist_ok=True)
        write_atomically(run.config, text)  # first: where this is killed, the folder is known for a run's
    _fetch(store, run, under, there)
    if not under:
        for index in range(shards):
            name = f"replay-{index}"
            _fetch(store, RunDirectory(run.shard(index)), name, store.checkpoints(name))
        _fetch_files(store, run)
    return experiment


def _placed(experiment: Experiment, run: RunDirectory) -> Experiment:
    """An experiment whose mirror, if it is a folder, has an absolute path."""
    mirror = experiment.checkpoint.mirror
    if "://" in mirror:
        return experiment
    if re.match(r"[a-z][a-z0-9+.-]+:", mirror):
        raise UsageError(f"{FIELD}={mirror!r}: a URL has two slashes behind its colon, such as s3://bucket/prefix")
    folder = Path(mirror).expanduser().resolve()
    if folder.is_relative_to(run.path) or run.path.is_relative_to(folder):
        raise UsageError(f"{FIELD}={mirror!r} and the run directory {run.path} are within each other: choose another")
    placed = msgspec.structs.replace(experiment.checkpoint, mirror=str(folder))
    return msgspec.structs.replace(experiment, checkpoint=placed)


def _is_foreign(run: RunDirectory) -> bool:
    """Whether a directory is something else than a run's."""
    return not run.config.exists() and run.path.is_dir() and any(run.path.iterdir())


def _fetch(store: Store, run: RunDirectory, under: str, there: list[str]) -> None:
    """Fetches the newest checkpoint that is whole, and the best one's, if they are newer than those here."""
    here = {path.name for path in paths(run.checkpoints)}
    newest, fetched = max(map(newness, here), default=(-1, -1)), ""
    for name in there:
        if newness(name) <= newest:
            break
        if _try_to_fetch(store, name, under, run):
            fetched = name
            break
    if fetched and not under:
        _keep_names(run, Checkpoint(run.checkpoints / fetched).counters)
    best = store.best(under) if fetched else ""
    if best and best != fetched and best not in here and best in there:
        _try_to_fetch(store, best, under, run)


def _keep_names(run: RunDirectory, counters: Counters) -> None:
    """Leaves a record of each collector that a checkpoint has counted: those to come need other names.

    Those that had not ended have what they had counted then, and were killed.
    """
    run.recorders.mkdir(parents=True, exist_ok=True)
    for name in {*counters.processes, *counters.left}:
        path = run.recorders / name
        if _COLLECTOR.fullmatch(name) and not path.exists():
            recorder = Recorder(path)
            recorder.record(counters.processes.get(name, Counts()))
            recorder.mark_ended(-signal.SIGKILL)


def _try_to_fetch(store: Store, name: str, under: str, run: RunDirectory) -> bool:
    try:
        found = store.fetch(name, under, run.checkpoints)
    except BadCheckpoint as bad:
        print(f"warning: checkpoint {name} of {store.url} is skipped: {bad}", file=sys.stderr, flush=True)
        return False
    except UsageError:
        raise
    except Exception as error:  # whatever the package that reaches it raises
        raise UsageError(f"{FIELD}: checkpoint {name} cannot be fetched from {store.url}: {reason_of(error)}") from None
    print(f"fetched checkpoint {name} of {store.url}, {found.size / 2**20:.1f} MiB", file=sys.stderr, flush=True)
    return True


def _fetch_files(store: Store, run: RunDirectory) -> None:
    """Fetches what belongs to the checkpoint that was fetched, as far as it is not here."""
    if not paths(run.checkpoints):
        return
    for name in (*POLICIES, *RESULTS):
        path = run.path / name
        if path.exists() or (content := store.read(name)) is None:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
        if name in POLICIES:
            try:
                stored_policies.load(path.parent)
            except UsageError as error:
                print(f"warning: {name} of {store.url} is skipped: {error}", file=sys.stderr, flush=True)
                path.unlink()
