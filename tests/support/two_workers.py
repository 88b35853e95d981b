"""One of two learners that train together; run by pipeline/learner/test_team.py, which says what it is to find.

`two_workers.py INDEX PORT,PORT FOLDER VARIANT,VARIANT LIFE`. In its first life a worker trains each of the variants on
its half of the batches, takes the chief's state, and learns until its peer is gone; then it becomes its second life,
which goes on from what the chief has saved. It prints lines of JSON.
"""

import json
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from kinds import changed, config_of, specs_of
from samples import part, random_sample

from pipeline.experiment.replay_section import OfflineConfig, ReplayConfig
from pipeline.experiment.sections import Experiment, LearnerConfig
from pipeline.learner.learner import Learner
from pipeline.learner.workers.collectives import Team
from pipeline.learner.workers.team import Cluster, Wish, WorkerLost, await_peers
from pipeline.learner.workers.team_learner import TeamLearner
from pipeline.replay.sampling import Sample
from pipeline.roles import separate_replay
from pipeline.runtime.process import interruption
from pipeline.security import loopback

STEPS, BATCH, CALLS = 4, 16, 3
BAD = 2
VARIANTS = {
    "dqn": changed(config_of("dqn"), {"normalize_observations": True}),
    # The losses of c51, and noisy.
    "rainbow": changed(config_of("rainbow"), {"normalize_observations": True, "v_min": "auto", "v_max": "auto"}),
    "r2d2": changed(config_of("r2d2"), {"sequence": 2, "burn_in": 1, "period": 1}),
    "q_learning": config_of("q_learning"),
    "dqn_local": changed(config_of("dqn"), {"normalize_observations": True}),
    "dqn_share": changed(config_of("dqn"), {"margin": 0.8, "one_step_weight": 1.0}),
}
PRIORITIZED = {"dqn", "rainbow", "r2d2", "dqn_local", "dqn_share"}
LOCAL_STEPS = {"dqn_local": 2}
"""`learner.local_steps` of the variants that have some."""
SHARE = {"dqn_share": 0.5}
"""`offline.share` of the variants that learn beside demonstrations."""
SUPPORT = -8.0, 8.0
"""That the chief decides where a variant leaves it open."""


def experiment_of(name: str) -> Experiment:
    return Experiment(
        agent=VARIANTS[name],
        learner=LearnerConfig(
            batch_size=BATCH, steps_per_call=STEPS, loop="plain", local_steps=LOCAL_STEPS.get(name, 1)
        ),
        replay=ReplayConfig(prioritized=name in PRIORITIZED, lanes_per_item=1),
        offline=OfflineConfig(dataset="demonstrations" * (name in SHARE), share=SHARE.get(name, 1.0)),
    )


def batches_of(name: str) -> Sample:
    """Of those beside demonstrations, the second half of each worker's windows are demonstrations."""
    sample = random_sample(VARIANTS[name], STEPS, BATCH, BAD)
    if name not in SHARE:
        return sample
    marks = tf.constant([[0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0] * 2] * STEPS)
    return sample._replace(trajectory=sample.trajectory._replace(policy_info=marks))


def arrays(learner: Learner) -> dict[str, np.ndarray]:
    """The learner's state by name."""
    return {name: array.numpy() for name, array in learner.state().items()}


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def train(name: str, team: Team, folder: Path, index: int) -> TeamLearner:
    """Trains a variant on this worker's half, and writes what became of it."""
    make = separate_replay.team_learner if name in SHARE else TeamLearner
    learner, sample = make(experiment_of(name), specs_of(VARIANTS[name].kind), team), part(batches_of(name), index, 2)
    if VARIANTS[name].open_fields:
        if team.cluster.is_chief:
            learner.set_support(*SUPPORT)
            assert not learner.is_shared
        learner.share_state()
    before, outcomes = arrays(learner), []
    for _ in range(CALLS):
        assert team.agree(Wish.LEARN) == Wish.LEARN
        outcomes.append(learner.learn(sample))
    np.savez(folder / f"{name}-{index}.npz", **arrays(learner))
    np.savez(folder / f"{name}-{index}-start.npz", **before)
    priorities = [outcome.priorities.tolist() for outcome in outcomes if outcome.priorities is not None]
    said = {"warning": learner.warning, "skipped": outcomes[0].skipped}
    say(variant=name, figures=[outcome[:5] for outcome in outcomes], priorities=priorities, **said)
    return learner


def first_life(team: Team, folder: Path, index: int, variants: list[str]) -> None:
    learners = [train(name, team, folder, index) for name in variants]
    learner, sample = learners[0], part(batches_of(variants[0]), index, 2)
    say(agreed=[team.agree(wish) for wish in ((Wish.LEARN, Wish.WAIT), (Wish.TAKE_STATE, Wish.LEARN))[index]])
    if not team.cluster.is_chief:
        learner.restore({name: np.ones_like(value) for name, value in arrays(learner).items()})
    learner.share_state()
    np.savez(folder / f"shared-{index}.npz", **arrays(learner))
    say(ready=learner.gradient_steps)
    while True:
        team.agree(Wish.LEARN)
        learner.learn(sample)


def second_life(team: Team, folder: Path, index: int, variants: list[str]) -> None:
    name = variants[0]
    learner = TeamLearner(experiment_of(name), specs_of(VARIANTS[name].kind), team)
    if team.cluster.is_chief:
        learner.restore(dict(np.load(folder / "shared-0.npz")))
    learner.share_state()
    resumed_at = learner.gradient_steps
    learner.learn(part(batches_of(name), index, 2))
    np.savez(folder / f"end-{index}.npz", **arrays(learner))
    say(resumed_at=resumed_at, ended_with=team.agree(Wish.STOP if team.cluster.is_chief else Wish.LEARN))
    if team.cluster.is_chief:
        wait_in_vain(team)
        (folder / "waited").touch()
    while not (folder / "waited").exists():  # alive, and elsewhere
        time.sleep(0.1)


def wait_in_vain(team: Team) -> None:
    """Waits for a worker that does not come."""
    team.patience = 1.0
    try:
        team.agree(Wish.LEARN)
    except WorkerLost as error:
        say(waited=str(error))


def main(index: int, ports: list[str], folder: Path, variants: list[str], life: int) -> None:
    cluster, interrupted = Cluster(tuple(f"127.0.0.1:{port}" for port in ports), index), interruption()
    assert await_peers(cluster, interrupted)
    try:
        team = Team(cluster)
        assert loopback.listeners(cluster.own[1]) == ["127.0.0.1"], "TensorFlow's server is this machine's alone"
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupted.wait(5.0), "TensorFlow has taken SIGTERM for itself"
        (second_life if life else first_life)(team, folder, index, variants)
    except WorkerLost as error:
        say(lost=str(error))
        os.execv(sys.executable, [sys.executable, *sys.argv[:-1], "1"])
    os._exit(0)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    main(int(sys.argv[1]), sys.argv[2].split(","), Path(sys.argv[3]), sys.argv[4].split(","), int(sys.argv[5]))
