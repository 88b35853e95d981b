"""Learners over several hosts: two processes train as one does, and one that dies costs the others seconds."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tensorflow as tf
import two_workers
from kinds import specs_of
from samples import part
from waiting import wait_until

from agents import PpoConfig
from pipeline.datasets.dataset_share import MarkedLearner
from pipeline.experiment.config import UsageError, parse
from pipeline.experiment.sections import LearnerConfig
from pipeline.learner.learner import Learner
from pipeline.learner.workers import team
from pipeline.learner.workers.local_steps import combined
from pipeline.learner.workers.team import Cluster, Wish, await_peers
from pipeline.messages.ports import free_port
from pipeline.replay.sampling import Sample

pytestmark = [pytest.mark.xdist_group("workers"), pytest.mark.timeout(1_200)]

PROGRAM = Path(two_workers.__file__)
TWO = ("10.0.0.1:2222", "10.0.0.2:2222")


def tf_config(addresses: tuple[str, ...] = TWO, index: Any = 0, kind: str = "worker", job: str = "worker") -> str:
    return json.dumps({"cluster": {job: addresses}, "task": {"type": kind, "index": index}})


def test_a_cluster_is_read() -> None:
    found = team.cluster({"TF_CONFIG": tf_config(index=1)})
    assert found == Cluster(TWO, 1)
    assert not found.is_chief
    assert found.peers == (0,)
    assert found.names((0,)) == "learner 0 at 10.0.0.1:2222"
    assert Cluster(TWO, 0).is_chief


@pytest.mark.parametrize("environment", [{}, {"TF_CONFIG": ""}, {"TF_CONFIG": tf_config(TWO[:1])}])
def test_one_learner_is_no_cluster(environment: dict[str, str]) -> None:
    assert team.cluster(environment) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read"),
        ("{}", "cannot be read.*cluster"),
        (tf_config(index="one"), "cannot be read.*index"),
        (tf_config(index=2), "task.index=2 and 2 workers"),
        (tf_config(index=-1), "task.index=-1"),
        (tf_config(kind="chief"), "task.type='chief'"),
        (tf_config(job="ps"), "a job 'ps'"),
        (tf_config(("10.0.0.1", "10.0.0.2:1")), "'10.0.0.1': write HOST:PORT"),
        (tf_config((":1", "10.0.0.2:1")), "':1'"),
        (tf_config(("a:70000", "b:1")), "'a:70000'"),
        (tf_config((TWO[0], TWO[0])), "twice"),
    ],
)
def test_a_wrong_tf_config_is_refused_in_words(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        team.cluster({"TF_CONFIG": text})
    assert "\n" not in str(caught.value)


def test_a_share_differs_in_the_batch_alone() -> None:
    experiment = parse("", ("learner.batch_size=256", "collect.lanes=4"))
    of_one = team.share(experiment, 4)
    assert of_one.learner.batch_size == 64
    assert (
        of_one.steps_per_item == experiment.steps_per_item == 16
    )  # by itself a batch of 64 would have items of 16 / 4
    assert of_one.window == experiment.window
    assert of_one.items_per_call == experiment.items_per_call / 4
    assert team.share(experiment, 1) is experiment


@pytest.mark.parametrize(
    ("overrides", "count", "words"),
    [
        (("learner.batch_size=64",), 3, "learner.batch_size=64 does not divide among 3 learners"),
        (("learner.batch_size=16", "learner.steps_per_call=1", "collect.lanes=16"), 2, "draws 8 windows a call"),
    ],
)
def test_work_that_cannot_be_shared_is_refused(overrides: tuple[str, ...], count: int, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        team.share(parse("", overrides), count)


BESIDE = ('offline.dataset="demonstrations"', "offline.share=0.75")


def test_each_learner_draws_the_share_of_a_dataset() -> None:
    experiment = parse("", (*BESIDE, "learner.batch_size=256", "collect.lanes=4"))
    of_one = team.share(experiment, 4)
    assert (of_one.learner.batch_size, of_one.collected.learner.batch_size) == (64, 16)
    assert of_one.steps_per_item == experiment.steps_per_item
    assert of_one.collected.replay.samples_per_insert == experiment.collected.replay.samples_per_insert
    assert of_one.collected.items_per_call == experiment.collected.items_per_call / 4


def test_learners_whose_share_of_a_dataset_is_not_even_are_refused() -> None:
    lines = (*BESIDE, "learner.batch_size=64", "collect.lanes=1")
    with pytest.raises(UsageError, match=r"offline\.share=0\.3 is 19 windows of learner\.batch_size=64, .* 2 learners"):
        team.share(parse("", (*lines, "offline.share=0.3")), 2)
    decaying = (*lines, "offline.share_final=0.05", "offline.share_decay_steps=100")
    with pytest.raises(UsageError, match=r"offline\.share_final=0\.05 is 3 windows"):
        team.share(parse("", decaying), 2)


def test_on_policy_kinds_are_refused() -> None:
    experiment = two_workers.experiment_of("dqn")
    with pytest.raises(UsageError, match=r"agent\.kind='ppo' learns from one queue"):
        team.share(type(experiment)(agent=PpoConfig(), learner=experiment.learner), 2)


def loopback(count: int) -> tuple[str, ...]:
    return tuple(f"127.0.0.1:{free_port()}" for _ in range(count))


def test_workers_wait_for_each_other_in_any_order() -> None:
    addresses, never, order = loopback(3), threading.Event(), []

    def come(index: int) -> bool:
        time.sleep(0.1 * (2 - index))
        there = await_peers(Cluster(addresses, index), never, seconds=120.0)
        order.append(index)
        with socket.create_server(("", int(addresses[index].rpartition(":")[2]))) as server:  # free again, at once
            if index == 0:
                time.sleep(0.5)
                for _ in range(2):  # what TensorFlow's server says first of all
                    server.accept()[0].sendall(b"\0\0\x18\4")
        return there

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(come, range(3))) == [True] * 3
    assert order[0] == 0, "the others go on before the chief's server is up"


def test_an_answer_that_is_lost_on_its_way_leaves_nobody_behind() -> None:
    """As through a proxy that connects too late: the call arrives, and who called has gone."""
    addresses, never = loopback(2), threading.Event()
    host = "127.0.0.1"
    with ThreadPoolExecutor(2) as pool:
        other = pool.submit(await_peers, Cluster(addresses, 1), never, 120.0)
        late = f"learner 0 of {' '.join(addresses)}\n".encode()
        wait_until(lambda: team._answer(Cluster(addresses, 0), 1) == late.replace(b"0", b"1", 1), "it is at its door")
        with socket.create_server((host, int(addresses[0].rpartition(":")[2]))) as chief:
            with chief.accept()[0] as caller:  # it is told that the chief is there, as he told it
                assert caller.recv(100)
                caller.sendall(late)
            time.sleep(1.0)
        assert pool.submit(await_peers, Cluster(addresses, 0), never, 120.0).result() is True
        with socket.create_server((host, int(addresses[0].rpartition(":")[2]))) as chief:
            chief.accept()[0].sendall(b"\0\0\x18\4")
            assert other.result() is True


def test_a_chief_that_goes_before_its_server_is_up_is_waited_for_no_longer() -> None:
    addresses = loopback(2)
    with ThreadPoolExecutor(1) as pool:
        chief = pool.submit(await_peers, Cluster(addresses, 0), threading.Event(), 120.0)
        with pytest.raises(TimeoutError, match="for the server of learner 0"):
            await_peers(Cluster(addresses, 1), threading.Event(), seconds=2.0)
        assert chief.result() is True


def test_the_wait_ends_and_says_who_did_not_come() -> None:
    addresses = loopback(2)
    with pytest.raises(TimeoutError, match=f"learner 0 has waited 1 s for learner 1 at {addresses[1]}"):
        await_peers(Cluster(addresses, 0), threading.Event(), seconds=1.0)


def test_something_else_at_a_workers_address_is_no_worker() -> None:
    addresses = loopback(2)
    with (
        socket.create_server(("127.0.0.1", int(addresses[1].rpartition(":")[2]))),
        pytest.raises(TimeoutError, match="for learner 1"),
    ):
        await_peers(Cluster(addresses, 0), threading.Event(), seconds=0.5)


def test_workers_of_another_cluster_are_not_waited_with() -> None:
    one, other, third = loopback(3)
    interrupted = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(await_peers, Cluster((one, other, third), 1), interrupted, 120.0)
        with pytest.raises(TimeoutError, match="for learner 1"):
            await_peers(Cluster((one, other), 0), threading.Event(), seconds=1.0)
        interrupted.set()
        assert waiting.result() is False


def test_a_port_in_use_is_named() -> None:
    addresses = loopback(2)
    port = int(addresses[0].rpartition(":")[2])
    with socket.create_server(("", port)), pytest.raises(TimeoutError, match=f"port {port}, on which another process"):
        await_peers(Cluster(addresses, 0), threading.Event(), seconds=0.5)


class Pair:
    """Two processes of `two_workers.py` in one folder."""

    def __init__(self, folder: Path, *variants: str) -> None:
        self.folder, self.variants, self._ports = folder, variants, f"{free_port()},{free_port()}"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._newest: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, index: int, life: int) -> subprocess.Popen[bytes]:
        path = os.pathsep.join([str(PROGRAM.parents[2]), str(PROGRAM.parent)])
        arguments = [str(index), self._ports, str(self.folder), ",".join(self.variants), str(life)]
        # Apart, as TensorFlow's threads may write to the log in the middle of a line.
        with self._log(index).open("ab") as log, self._words(index).open("ab") as words:
            # They learn until they are ended: those of a suite that was killed would go on for ever.
            tether = [sys.executable, "-m", "pipeline.runtime.ends_with_parent", str(os.getpid())]
            command = [*tether, sys.executable, str(PROGRAM), *arguments]
            process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stdout=words, stderr=log)
        self._processes.append(process)
        self._newest[index] = process
        return process

    def said(self, index: int) -> list[dict[str, Any]]:
        """The whole lines of JSON that a worker has printed."""
        return [json.loads(line) for line in self._words(index).read_text().split("\n")[:-1]]

    def wait_for(self, index: int, key: str, seconds: float = 500.0) -> dict[str, Any]:
        deadline, has_ended = time.monotonic() + seconds, False
        while time.monotonic() < deadline and not has_ended:
            has_ended = self._newest[index].poll() is not None  # before its last words are read
            for line in self.said(index):
                if key in line:
                    return line
            time.sleep(0.05)
        raise AssertionError(f"worker {index} {'ended and' if has_ended else ''} did not say {key!r}: {self.logs()}")

    def logs(self) -> str:
        return "\n\n".join(self.log(index)[-3000:] for index in (0, 1))

    def log(self, index: int) -> str:
        return self._log(index).read_text(errors="replace")

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        with np.load(self.folder / f"{name}.npz") as stored:
            return dict(stored)

    def kill(self, index: int) -> None:
        """Ends the worker that was started at that place as it is."""
        self._processes[index].send_signal(signal.SIGKILL)

    def wait(self, index: int) -> int:
        """The exit code of the worker that was started at that place."""
        return self._processes[index].wait(500)

    def end(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def _log(self, index: int) -> Path:
        return self.folder / f"{index}.log"

    def _words(self, index: int) -> Path:
        return self.folder / f"{index}.jsonl"


@contextlib.contextmanager
def training(folder: Path, *variants: str) -> Iterator[Pair]:
    """Two workers that have trained each variant and learn on."""
    pair = Pair(folder, *variants)
    try:
        for index in (0, 1):
            pair.start(index, life=0)
        for index in (0, 1):
            pair.wait_for(index, "ready")
        yield pair
    finally:
        pair.end()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """What became of two workers, of which the second was killed."""
    with training(tmp_path_factory.mktemp("workers"), "dqn", "dqn_local") as found:
        found.kill(1)
        found.wait_for(0, "lost")
        yield found


@pytest.fixture(scope="module")
def revived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """What became of two workers, of which the second was killed and started again."""
    with training(tmp_path_factory.mktemp("revived"), "q_learning", "r2d2", "rainbow", "dqn_share") as found:
        found.kill(1)
        third = found.start(1, life=1)  # at once: the first may not have noticed yet
        found.wait_for(0, "lost")
        assert (found.wait(0), third.wait(500)) == (0, 0), found.logs()
        yield found


def by_variant(said: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {line["variant"]: line for line in said if "variant" in line}


def check_against_one_learner(pair: Pair, variant: str) -> None:
    """Holds what both workers made of a variant against a learner that has the whole batches."""
    make = MarkedLearner if variant in two_workers.SHARE else Learner
    learner = make(two_workers.experiment_of(variant), specs_of(two_workers.VARIANTS[variant].kind), ["CPU:0"])
    if two_workers.VARIANTS[variant].open_fields:
        learner.set_support(*two_workers.SUPPORT)
    start = two_workers.arrays(learner)
    outcomes = [learner.learn(two_workers.batches_of(variant)) for _ in range(two_workers.CALLS)]
    alone = two_workers.arrays(learner)
    for index in (0, 1):
        together = pair.arrays(f"{variant}-{index}")
        assert together.keys() == alone.keys()
        for name, value in alone.items():
            np.testing.assert_array_equal(pair.arrays(f"{variant}-{index}-start")[name], start[name], name)
            np.testing.assert_allclose(together[name], value, rtol=1e-5, atol=1e-5, err_msg=name)
            np.testing.assert_array_equal(together[name], pair.arrays(f"{variant}-0")[name], name)
    assert any(np.abs(alone[name] - start[name]).max() > 0.01 for name in alone if alone[name].dtype == np.float32)
    said = [by_variant(pair.said(index))[variant] for index in (0, 1)]
    for worker in said:
        np.testing.assert_allclose(worker["figures"], [outcome[:5] for outcome in outcomes], rtol=1e-4, atol=1e-5)
        assert worker["skipped"] == list(outcomes[0].skipped) == [two_workers.BAD]
    priorities = [outcome.priorities for outcome in outcomes if outcome.priorities is not None]
    assert len(priorities) == (two_workers.CALLS if variant in two_workers.PRIORITIZED else 0)
    for call, expected in enumerate(priorities):
        halves = np.concatenate([worker["priorities"][call] for worker in said], axis=1)
        np.testing.assert_allclose(halves, expected, rtol=1e-4, atol=1e-4)


def test_two_workers_train_as_one_learner_does(pair: Pair) -> None:
    check_against_one_learner(pair, "dqn")


@pytest.mark.slow
@pytest.mark.parametrize("variant", sorted(two_workers.VARIANTS.keys() - {"dqn"} - two_workers.LOCAL_STEPS.keys()))
def test_two_workers_train_other_kinds_as_one_learner_does(revived: Pair, variant: str) -> None:
    check_against_one_learner(revived, variant)


def averaged_by_hand(variant: str) -> tuple[dict[str, np.ndarray], list[Any]]:
    """The state after all calls of learners that take the mean of what they have after every `local_steps` steps.

    Slow and obvious: a learner for each half, each with steps of its own, and means by numpy.
    """
    whole, steps = two_workers.experiment_of(variant), two_workers.LOCAL_STEPS[variant]
    half = msgspec.structs.replace(
        whole, learner=LearnerConfig(batch_size=two_workers.BATCH // 2, steps_per_call=steps, loop="plain")
    )
    kind = specs_of(two_workers.VARIANTS[variant].kind)
    learners, priorities = [Learner(half, kind, ["CPU:0"]) for _ in range(2)], []
    sample = two_workers.batches_of(variant)
    for _ in range(two_workers.CALLS):
        of_call = []
        for first in range(0, two_workers.STEPS, steps):
            outcomes = []
            for index, learner in enumerate(learners):
                mine = part(sample, index, 2)
                batches = tf.nest.map_structure(lambda leaf, at=first: leaf[at : at + steps], mine[:3])
                trajectory, gradient_steps, relative = batches
                outcomes.append(learner.learn(Sample(trajectory, gradient_steps, relative, mine.keys)))
            of_call.append(np.concatenate([outcome.priorities for outcome in outcomes], axis=1))
            states = [two_workers.arrays(learner) for learner in learners]
            mean = {
                name: (value + states[1][name]) * np.float32(0.5) if value.dtype == np.float32 else value
                for name, value in states[0].items()
            }
            for learner in learners:
                learner.restore(mean)
        priorities.append(np.concatenate(of_call))
    return mean, priorities


@pytest.mark.parametrize("variant", sorted(two_workers.LOCAL_STEPS))
def test_local_steps_are_those_of_learners_that_take_means_by_hand(pair: Pair, variant: str) -> None:
    mean, priorities = averaged_by_hand(variant)
    for index in (0, 1):
        together = pair.arrays(f"{variant}-{index}")
        assert together.keys() == mean.keys()
        for name, value in mean.items():
            np.testing.assert_allclose(together[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
            np.testing.assert_array_equal(together[name], pair.arrays(f"{variant}-0")[name], name)
    said = [by_variant(pair.said(index))[variant] for index in (0, 1)]
    assert [worker["skipped"] for worker in said] == [[two_workers.BAD]] * 2, "one learner skipped it"
    assert said[0]["figures"] == said[1]["figures"]
    for call, expected in enumerate(priorities):
        halves = np.concatenate([worker["priorities"][call] for worker in said], axis=1)
        np.testing.assert_allclose(halves, expected, rtol=1e-4, atol=1e-4)


def test_figures_of_learners_and_parts_are_means_over_applied_steps() -> None:
    of_learners = [  # two learners, two parts of two steps: loss, TD error, mean and largest Q-value, norm, applied
        [[1.0, 2.0, 3.0, 9.0, 5.0, 1.0, 1.0], [4.0, 4.0, 4.0, 2.0, 4.0, 1.0, 0.0]],
        [[7.0, 0.0, 1.0, 3.0, 3.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]],
    ]
    found = combined(np.array(of_learners, np.float32))
    np.testing.assert_allclose(found, [4.0, 1.6, 2.4, 9.0, 4.0, 1.0, 1.0, 0.0, 0.0])


def test_learners_pay_where_the_sum_takes_less_than_what_they_save() -> None:
    assert team.pays_from(0.003, learners=2, local_steps=1) == pytest.approx(0.006)  # 6 / 2 + 3 = 6
    assert team.pays_from(0.003, learners=4, local_steps=1) == pytest.approx(0.004)  # 4 / 4 + 3 = 4
    assert team.pays_from(0.003, learners=2, local_steps=10) == pytest.approx(0.0006)


@pytest.mark.parametrize(
    ("alone", "sums", "local_steps", "words"),
    [
        (0.0001, 0.001, 1, "pay from about 2 ms a gradient step of one alone; this network takes about 0.1 ms"),
        (0.0001, 0.004, 10, "pay from about 0.8 ms a gradient step of one alone; this network takes about 0.1 ms"),
        (0.005, 0.012, 1, "pay from about 24 ms a gradient step of one alone; this network takes about 5 ms"),
        (0.005, 0.012, 10, ""),  # a slow link, and a sum for ten steps
        (0.02, 0.002, 1, ""),
    ],
)
def test_learners_that_do_not_pay_are_told_so_with_both_figures(
    alone: float, sums: float, local_steps: int, words: str
) -> None:
    said = team.warning_of(alone, sums, learners=2, local_steps=local_steps)
    assert bool(said) == bool(words)
    assert words in said
    assert not said or said.endswith(f"start one, without TF_CONFIG, or raise learner.local_steps={local_steps}")


def test_learners_warn_by_what_they_have_measured(pair: Pair) -> None:
    measured = re.findall(r"a sum over the 2 learners takes (\S+) ms, and .* alone about (\S+) ms", pair.log(0))
    said = [line["warning"] for line in pair.said(0) if "warning" in line]
    assert len(measured) == len(said) == len(pair.variants)
    for (sums, alone), warning, variant in zip(measured, said, pair.variants, strict=True):
        least = 2 * float(sums) / two_workers.LOCAL_STEPS.get(variant, 1)
        assert float(sums) > 0.0
        assert float(alone) >= 0.0
        if abs(float(alone) / least - 1.0) > 0.2:  # figures are rounded
            assert bool(warning) == (float(alone) < least)


def test_local_steps_divide_a_call() -> None:
    with pytest.raises(UsageError, match=r"learner\.local_steps=7 does not divide learner\.steps_per_call=100"):
        team.share(parse("", ("learner.local_steps=7",)), 2)


def test_workers_agree_on_the_largest_wish(pair: Pair) -> None:
    for index in (0, 1):
        assert pair.wait_for(index, "agreed", 1.0)["agreed"] == [Wish.TAKE_STATE, Wish.WAIT]


def test_workers_take_the_chiefs_state(pair: Pair) -> None:
    trained = pair.arrays("dqn-0")
    for index in (0, 1):
        shared = pair.arrays(f"shared-{index}")
        assert shared.keys() == trained.keys()
        for name, value in trained.items():
            np.testing.assert_array_equal(shared[name], value, name)


def test_a_worker_that_dies_is_named(pair: Pair) -> None:
    lost = pair.wait_for(0, "lost", 1.0)["lost"]
    assert lost.startswith("learner 1 at 127.0.0.1:")
    assert "\n" not in lost
    assert "--resume" in lost


@pytest.mark.slow
def test_a_worker_that_lives_and_does_not_come_is_not_waited_for_ever(revived: Pair) -> None:
    waited = revived.wait_for(0, "waited", 1.0)["waited"]
    assert waited.startswith("one of learner 1 at 127.0.0.1:")
    assert "not all learners came to a call within 1 s" in waited


@pytest.mark.slow
def test_workers_that_start_anew_go_on_from_the_chiefs_state(revived: Pair) -> None:
    steps = two_workers.CALLS * two_workers.STEPS
    for index in (0, 1):
        assert revived.wait_for(index, "resumed_at", 1.0) == {"resumed_at": steps, "ended_with": Wish.STOP}
        for name, value in revived.arrays("end-0").items():
            np.testing.assert_array_equal(revived.arrays(f"end-{index}")[name], value, name)
