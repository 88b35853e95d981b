"""One role of a run, started by hand on any host or by a launcher.

Every role is given the same --config, --set, --seed and --replay, in any order; each waits for what it needs.

Example, two shards of a replay, on hosts of their own:
  python -m pipeline.role --role=replay --index=0 --config=cartpole --replay=a:9000,b:9000 --run_dir=replay-0
  python -m pipeline.role --role=replay --index=1 --config=cartpole --replay=a:9000,b:9000 --run_dir=replay-1
  python -m pipeline.role --role=learner --config=cartpole --replay=a:9000,b:9000 --run_dir=runs/cartpole
  python -m pipeline.role --role=collector --index=0 --config=cartpole --replay=a:9000,b:9000
  python -m pipeline.role --role=evaluator --config=cartpole --replay=a:9000,b:9000

Exit codes: 0 the run ended at its stop condition, 2 wrong usage or config, 3 waited too long or stalled, 4 diverged,
6 an environment breaks its contract, 7 the learner has left and may come back, 1 anything else, also an interruption.
"""

import atexit
import contextlib
import functools
import gc
import logging
import os
import random
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

import msgspec
from absl import flags

from agents import Specs
from pipeline import environments
from pipeline.command import refuse_more, run_command
from pipeline.experiment import config
from pipeline.experiment.config import UsageError
from pipeline.experiment.run_directory import RunDirectory
from pipeline.experiment.sections import Experiment
from pipeline.learner.workers import team as workers
from pipeline.messages import listening, role_words
from pipeline.messages.addresses import Addresses, guard_of, host_of, parse, port_of
from pipeline.messages.channel import Interrupted
from pipeline.messages.dead_connections import time_out_connections
from pipeline.monitoring import log_lines
from pipeline.monitoring.health import Health, ServiceManager, absence, shown
from pipeline.records.recorder import Recorder, mark_rest_ended
from pipeline.records.results import ENVIRONMENT_FAULT
from pipeline.runtime import belongings
from pipeline.runtime.lasting_output import LastingOutput
from pipeline.runtime.process import die_with_parent, interruption, quieten_gym

if TYPE_CHECKING:
    from pipeline.monitoring.health import Number

_NAMES = ["replay", "learner", "inference", "collector", "evaluator", "relay"]
ROLE = flags.DEFINE_enum("role", None, _NAMES, "What this process does.")
CONFIG = flags.DEFINE_string("config", None, "Path of a TOML config, or the name of a shipped one, such as cartpole.")
SET = flags.DEFINE_multi_string("set", [], "A line of TOML that overrides the config; may be repeated.")
SEED = flags.DEFINE_integer("seed", None, "Replaces the config's seed.", lower_bound=0)
REPLAY = flags.DEFINE_string(
    "replay",
    None,
    "host:port of each of the replay's servers, separated by commas, or a unix: socket of pipeline.proxy.",
)
INDEX = flags.DEFINE_integer("index", 0, "Which of the collectors, shards or learners this is.", lower_bound=0)
RUN_DIR = flags.DEFINE_string(
    "run_dir", None, "Where a role leaves its files, each its own on its own host; the learner's are those of the run."
)
RESUME = flags.DEFINE_bool("resume", False, "Go on from the newest checkpoint in --run_dir; start if there is none.")
WEIGHTS = flags.DEFINE_string("weights", "", "Where to fetch weights: a relay or a proxy. Empty: this role's shard.")
REPORTS = flags.DEFINE_string("reports", "", "Where to send reports: a proxy. Empty: this role's shard.")
INFERENCE = flags.DEFINE_string(
    "inference", "", "host:port or unix:/path of the acting server, of a run with collect.inference='central'."
)
LISTEN = flags.DEFINE_string("listen", None, "host:port that a relay serves at.")
EMBEDDED = flags.DEFINE_bool(
    "embedded", False, "The learner's process is the replay's server too, at the only address of --replay."
)
INCARNATION = flags.DEFINE_integer(
    "incarnation", None, "How often this role was started before: environments get another seed each time."
)
SUPERVISOR = flags.DEFINE_integer("supervisor", 0, "Process that has started this one and whose end ends it.")
RECORDER = flags.DEFINE_string("recorder", None, "File in which a supervisor reads how this process does.")
PASS_OVER = flags.DEFINE_integer("pass_over", 0, "Newest checkpoints that --resume leaves out.", lower_bound=0)
STARTED = flags.DEFINE_float("started", 0.0, "Wall-clock time at which the user's command started; 0 is now.")

METRICS = flags.DEFINE_string(
    "metrics", None, "Where this process serves /metrics, /healthz and /readyz: host:port, or unix:/path."
)
LOG_FORMAT = flags.DEFINE_enum("log_format", "text", log_lines.FORMATS, "json: one object a line.")
RUN = flags.DEFINE_string(
    "run", None, "Names the run in metrics and in logs of JSON. Without it: the config's name and the seed, cartpole-1."
)
LOST = flags.DEFINE_integer("lost", 0, "How often this learner has lost another one and started anew.")

log = logging.getLogger("role")

_EXIT_CODES = (UsageError, 2), (TimeoutError, 3), (Interrupted, 1), (environments.EnvironmentFault, ENVIRONMENT_FAULT)
_EXIT_SECONDS = 3.0
"""For what has been left to be done at exit, by an environment or a library: it may wait for ever."""
_MOST_LOST = 20
"""How often one start of a learner may lose a peer; more often is no accident."""


def _learn(experiment: Experiment, addresses: Addresses, interrupted: threading.Event, health: Health) -> int:
    """The learner's process; returns the exit code."""
    team = None
    if cluster := workers.cluster(os.environ):
        quieten_gym()
        from pipeline.learner.workers.collectives import Team

        if not workers.await_peers(cluster, interrupted):
            return 1
        team = Team(cluster)
        if not cluster.is_chief:
            from pipeline.roles.worker_role import run_worker

            specs = _specs(experiment)
            return run_worker(experiment, specs, addresses.shards, team, interrupted, _recorder())
    run = _run_directory(experiment)
    experiment = run.experiment()
    gc.disable()  # what is imported and traced stays: looking for garbage in it is a tenth of start-up
    quieten_gym()
    from pipeline.records.results import EXIT_CODES, UNWRITTEN_SUMMARY, UnwrittenSummary
    from pipeline.roles.learner_parts import Place, learner_parts
    from pipeline.roles.learner_role import LearningProcess
    from pipeline.roles.training import run_to_its_end

    specs = _specs(experiment)
    life = run.incarnations("learner") if INCARNATION.value is None else INCARNATION.value
    place = Place(port_of(addresses.frames, "--replay")) if EMBEDDED.value else Place(addresses=addresses.shards)
    recorder = Recorder(Path(RECORDER.value) if RECORDER.value else run.recorder("learner", life))
    recorder.show_calls()
    health.follow(recorder)
    parts = learner_parts(experiment, specs, run, place, resume=RESUME.value, pass_over=PASS_OVER.value, team=team)

    def numbers() -> "list[Number]":
        from pipeline.monitoring import prometheus

        return prometheus.of_run(parts.reporter.metrics.newest, parts.reporter.status, parts.replay.seen())

    health.vitals.numbers = numbers
    health.vitals.obstacle = lambda: absence(parts.replay.seen())
    process = LearningProcess(
        experiment, run, place, parts, started=STARTED.value or time.time(), life=life, recorder=recorder
    )
    gc.freeze()
    gc.enable()
    try:
        return EXIT_CODES[run_to_its_end(process, interrupted).stop_reason]
    except UnwrittenSummary as error:
        log.error("%s", error)
        return UNWRITTEN_SUMMARY


def _serve(experiment: Experiment, addresses: Addresses, interrupted: threading.Event, health: Health) -> int:
    """The process of one of the replay's servers; returns the exit code."""
    run = _run_directory(experiment)
    experiment = run.experiment()
    quieten_gym()
    from pipeline.roles.replay_role import run_replay

    specs = _specs(experiment)
    port = port_of(addresses.frames, "--replay")
    _count_start()
    return run_replay(experiment, specs, run, INDEX.value, port, interrupted, _recorder(), RESUME.value, health.vitals)


def _collect(experiment: Experiment, addresses: Addresses, interrupted: threading.Event, health: Health) -> int:
    """A collector's process; returns the exit code."""
    from pipeline.roles.collector_role import run_collector

    # Started by hand, so a random number stands for the count of starts: two starts must not look like one.
    incarnation = random.getrandbits(31) if INCARNATION.value is None else INCARNATION.value
    process, specs = f"collector-{INDEX.value}.{incarnation}", _specs(experiment)
    _count_start()
    own = _recorder(), incarnation, specs, health.vitals, INFERENCE.value
    return run_collector(experiment, INDEX.value, addresses, process, interrupted, *own)


def _act(experiment: Experiment, addresses: Addresses, interrupted: threading.Event, health: Health) -> int:
    """The acting server's process; returns the exit code."""
    from pipeline.acting.acting_server import run_acting_server
    from pipeline.replay.frames import FrameLayout

    seen = FrameLayout.of(experiment, _specs(experiment)).agent_specs
    bound, show = listening.at(INFERENCE.value, "--inference"), health.vitals.show_numbers
    _count_start()
    return run_acting_server(experiment, seen, bound, addresses.weights, interrupted, _recorder(), show)


def _evaluate(experiment: Experiment, addresses: Addresses, interrupted: threading.Event, health: Health) -> int:
    """The evaluator's process; returns the exit code."""
    from pipeline.roles.evaluator_role import run_evaluator

    folder, is_far = RunDirectory(Path(RUN_DIR.value)).policies if RUN_DIR.value else None, not SUPERVISOR.value
    if folder is not None and is_far:
        RunDirectory(folder.parent).lock()  # a learner's directory has its policies from the learner
    _count_start()
    own = _recorder(), _specs(experiment), health.vitals, is_far
    return run_evaluator(experiment, folder, addresses, interrupted, *own)


def _relay(experiment: Experiment, addresses: Addresses, interrupted: threading.Event, health: Health) -> int:
    """A relay's process; returns the exit code."""
    from pipeline.roles.relay_role import run_relay

    (listen,) = parse(LISTEN.value, "--listen")
    port, private = port_of(listen, "--listen"), guard_of(host_of(listen), experiment.replay.private)
    return run_relay(addresses.weights, port, private, experiment.collect, interrupted, _recorder())


_ROLES = {"replay": _serve, "learner": _learn, "collector": _collect, "evaluator": _evaluate, "relay": _relay}
_ROLES["inference"] = _act


def _run_directory(experiment: Experiment) -> RunDirectory:
    """The directory of a learner or shard; one that was started by hand makes it."""
    run = RunDirectory(Path(RUN_DIR.value).resolve())
    if not SUPERVISOR.value or ROLE.value == "replay":
        experiment = run.check(experiment, RESUME.value)
        run.lock()
        run.create(experiment)
        mark_rest_ended(run.recorders)
        if ROLE.value == "learner":
            role_words.keep_in(run.logs)
    return run


def _specs(experiment: Experiment) -> Specs:
    """What the environment gives and takes; of a role that a launcher has started, as its check found."""
    if SUPERVISOR.value and RUN_DIR.value:
        return environments.described(experiment.environment, RunDirectory(Path(RUN_DIR.value)).specs)
    return environments.describe(experiment.environment)


def _source(experiment: Experiment) -> log_lines.Source:
    """Names this process in metrics and logs; how often it was started before is as far as anybody has counted."""
    run, life = RUN.value or f"{Path(CONFIG.value or '').stem}-{experiment.seed}", INCARNATION.value
    if life is None:
        folder = Path(RUN_DIR.value or os.devnull)
        by_hand = log_lines.starts(folder, f"{ROLE.value}-{INDEX.value}") + LOST.value
        life = RunDirectory(folder).incarnations("learner") if ROLE.value == "learner" and RUN_DIR.value else by_hand
    return log_lines.Source(run, ROLE.value, INDEX.value, life)


def _count_start() -> None:
    if RUN_DIR.value and INCARNATION.value is None:
        log_lines.count_start(Path(RUN_DIR.value), f"{ROLE.value}-{INDEX.value}")


def _health(experiment: Experiment) -> Health:
    """How this process is, for whoever asks."""
    acts = ROLE.value in ("inference", "collector", "evaluator")
    silent = experiment.collect.stall_seconds if acts else experiment.learner.silent_seconds
    health = Health(f"{ROLE.value}-{INDEX.value}", silent, f"{'collect.stall' if acts else 'learner.silent'}_seconds")
    health.follow(_recorder())
    return health


@functools.cache
def _recorder() -> Recorder:
    return Recorder(Path(RECORDER.value) if RECORDER.value else None)


def _required(flag: flags.FlagHolder[str | None], question: str) -> str:
    if not flag.value:
        raise UsageError(f"--{flag.name} is missing for --role={ROLE.value}: {question}")
    return str(flag.value)


def _experiment(shards: list[str]) -> Experiment:
    """The experiment, with as many shards as there are addresses, which listen where these say."""
    experiment = config.load(_required(CONFIG, "a path or the name of a shipped config"), tuple(SET.value), SEED.value)
    wanted = 0 if EMBEDDED.value else len(shards)
    if EMBEDDED.value and len(shards) > 1:
        raise UsageError("--embedded is one server: --replay takes one address")
    if experiment.replay.shards not in (0, wanted):
        raise UsageError(f"replay.shards={experiment.replay.shards}, and --replay has {len(shards)} addresses")
    replay = msgspec.structs.replace(experiment.replay, shards=wanted)
    if not SUPERVISOR.value:
        private = guard_of(host_of(shards[INDEX.value % len(shards)]), replay.private)
        replay = msgspec.structs.replace(replay, private=private)
    experiment = msgspec.structs.replace(experiment, replay=replay)
    config.validate(experiment)
    _check(experiment, shards)
    return experiment


def _check(experiment: Experiment, shards: list[str]) -> None:
    """Refuses what this role cannot be started with."""
    cluster = workers.cluster(os.environ) if ROLE.value == "learner" else None
    if cluster is not None:
        workers.share(experiment, len(cluster.addresses))
        if EMBEDDED.value:
            raise UsageError("several learners draw from a replay of its own: leave --embedded out")
        if cluster.index != INDEX.value:
            raise UsageError(f"--index={INDEX.value}, and TF_CONFIG has task.index={cluster.index}: give both the same")
    elif ROLE.value == "learner" and (INDEX.value or experiment.learner.local_steps > 1):
        steps = f"learner.local_steps={experiment.learner.local_steps}"
        raise UsageError(f"--index={INDEX.value} and {steps} of a learner: several of them need TF_CONFIG")
    if ROLE.value in ("replay", "learner") and not (cluster and not cluster.is_chief):
        _required(RUN_DIR, "where should its files be?")
    if ROLE.value == "evaluator" and not experiment.evaluates:
        judging = experiment.evaluation
        raise UsageError(
            f"evaluation.enabled={judging.enabled} and evaluation.episodes={judging.episodes}: this run makes no "
            "evaluations, leave the evaluator out"
        )
    if ROLE.value == "relay":
        (listen, *more) = parse(_required(LISTEN, "at which host:port should it serve?"), "--listen")
        port_of(listen, "--listen")
        if more:
            raise UsageError("--listen is one host:port")
    if ROLE.value in ("inference", "collector"):
        from pipeline.acting.central_words import refuse_place

        refuse_place(experiment, ROLE.value, INFERENCE.value)
    if ROLE.value == "replay" or EMBEDDED.value:
        port_of(shards[INDEX.value % len(shards)], "--replay")
    most = {"replay": len(shards), "collector": experiment.collectors}.get(ROLE.value)
    if most is not None and INDEX.value >= most:
        name = "max_collectors" if experiment.collect.max_collectors else "collectors"
        what = "--replay addresses" if ROLE.value == "replay" else f"collect.{name}"
        raise UsageError(f"--index={INDEX.value}, and there are {most} {what}: they are numbered from 0")


def main(arguments: list[str]) -> int:
    """Checks the command line and runs the role; leaves without waiting for Reverb's threads, which may never end."""
    refuse_more(arguments)
    if not ROLE.value:
        raise UsageError(f"--role is missing: one of {', '.join(_ROLES)}")
    if SUPERVISOR.value:
        die_with_parent(SUPERVISOR.value)
    shards = parse(_required(REPLAY, "host:port of each of the replay's servers"), "--replay")
    experiment = _experiment(shards)
    mirrored: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if experiment.checkpoint.mirror and not SUPERVISOR.value:
        from pipeline.callbacks import mirroring

        own = ROLE.value, INDEX.value, RUN_DIR.value, RESUME.value, _recorder().beat
        experiment, mirrored = mirroring.of_role(experiment, *own)
    addresses = Addresses.of(shards, INDEX.value, WEIGHTS.value, REPORTS.value)
    at = listening.at(METRICS.value, "--metrics") if METRICS.value else None
    source = _source(experiment)
    logged_as = source if LOG_FORMAT.value == "json" else None
    log_lines.begin(logged_as)
    if not SUPERVISOR.value:
        role_words.begin(ROLE.value, INDEX.value, RUN_DIR.value, addresses.reports)
    if ROLE.value != "replay" and not EMBEDDED.value:  # else it is its own server
        time_out_connections((*addresses.shards, addresses.weights, addresses.reports))
    belongings.keep_generated_code()
    sys.stdout = cast(Any, LastingOutput(sys.stdout))  # who prints has no fault if the log's disk is full
    interrupted, started, code = interruption(), time.monotonic(), 1
    recorder, reason, health = _recorder(), "", _health(experiment)
    recorder.show_calls()
    manager = None if SUPERVISOR.value else ServiceManager.of(os.environ)  # a supervisor tells systemd itself
    try:
        with shown(health, source, at, manager), mirrored:
            code = _ROLES[ROLE.value](experiment, addresses, interrupted, health)
        recorder.conclude(code)
    except (UsageError, TimeoutError, Interrupted, environments.EnvironmentFault) as error:
        code = next(code for kind, code in _EXIT_CODES if isinstance(error, kind))
        reason = str(error)
        recorder.conclude(code)
    except workers.WorkerLost as lost:
        if not interrupted.is_set() and LOST.value < _MOST_LOST:
            workers.start_anew(lost, LOST.value)
        reason = str(lost)
    except BaseException as error:  # KeyboardInterrupt and SystemExit, too: an environment's own
        reason = f"the {ROLE.value} ends"
        reason += (
            f": it was left by {error!r}" if isinstance(error, SystemExit) else f"\n{traceback.format_exc().rstrip()}"
        )
    _leave(code, reason, time.monotonic() - started, logged_as)


def _leave(code: int, reason: str, seconds: float, logged_as: log_lines.Source | None) -> NoReturn:
    """Says how this process ends, and ends it without waiting for Reverb's threads, which may never end."""
    if reason:  # not by logging, which an environment may have put out
        log_lines.say(logged_as, "ERROR", "role", reason)
    role_words.end(code, reason)
    timer = threading.Timer(_EXIT_SECONDS, os._exit, (code,))
    timer.daemon = True
    timer.start()
    with contextlib.suppress(BaseException):  # what an environment or TensorFlow has left to be done at exit
        atexit._run_exitfuncs()
    log_lines.say(logged_as, "INFO", "role", f"ends with exit code {code} after {seconds:.1f} s")
    with contextlib.suppress(BaseException):
        logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):  # the disk that the log is on is full
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
