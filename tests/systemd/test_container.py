"""The package in a container, and a pod as Kubernetes would have it, both by podman.

What podman cannot do here: publish ports, which needs a bridge, so that all peers are in the
container themselves; and keep the times of probes, which it leaves to systemd timers.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.systemd.conftest import TOP
from tests.waiting import wait_for

CONTAINER = TOP / "packaging/container"
IMAGE = f"localhost/zqueue-test-{os.getpid()}"
NEEDED = ("podman", "runc", "catatonit")
# What podman asks for by itself may be more than this machine allows.
CONF = """
[containers]
default_ulimits = ["nofile={0}:{0}", "nproc=1000:1000"]
[engine]
runtime = "runc"
"""

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, NEEDED)), reason=f"needs {', '.join(NEEDED)}"
)


class Podman:
    def __init__(self, folder: Path) -> None:
        conf = folder / "containers.conf"
        conf.write_text(CONF.format(resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        self._environment = os.environ | {"CONTAINERS_CONF": str(conf)}

    def __call__(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["podman", *words],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["podman", *words], env=self._environment, stdout=subprocess.PIPE, text=True
        )


@pytest.fixture(scope="module")
def podman(deb: Path, release: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    """Podman with the image built from a bare Debian, as the Containerfile's first line says."""
    folder = tmp_path_factory.mktemp("container")
    podman = Podman(folder)
    base = folder / "base.tar"
    command = ["mmdebstrap", "-q", "--variant=minbase", release, str(base)]
    subprocess.run(command, check=True, timeout=600)
    podman("import", "-q", str(base), f"{IMAGE}-base")
    base.unlink()
    context = folder / "out"
    context.mkdir()
    shutil.copy(deb, context)
    podman(
        *("build", "-q", "--network=host", "--format=docker"),
        *("--build-arg", f"BASE={IMAGE}-base", "-f", str(CONTAINER / "Containerfile")),
        *("-t", IMAGE, str(context)),
    )
    yield podman
    podman("rmi", "-f", IMAGE, f"{IMAGE}-base")


@pytest.fixture
def container(podman: Podman) -> Iterator[str]:
    """As compose.yaml has it run: nothing can be written but the volumes, and no capability."""
    name = f"zqueue-test-{os.getpid()}"
    podman(
        *("run", "-d", "--name", name, "--network=none", "--no-healthcheck", "--stop-timeout=45"),
        *("--read-only", "--cap-drop=all", "--security-opt=no-new-privileges"),
        *("-v", f"{CONTAINER / 'zqueue.toml'}:/etc/zqueue.toml:ro", IMAGE),
    )
    yield name
    podman("rm", "-f", "-v", name)


def is_ready(podman: Podman, container: str) -> bool:
    return podman("exec", container, "zqueuectl", "health", "--ready", check=False).returncode == 0


def test_it_serves_as_nobody_in_particular_and_drains_at_its_end(
    podman: Podman, container: str
) -> None:
    wait_for(lambda: is_ready(podman, container), "zqueued in a container")
    image = json.loads(podman("inspect", IMAGE).stdout)[0]
    check = image["Healthcheck"]["Test"]
    assert check[0] == "CMD"
    assert podman("exec", container, *check[1:]).stdout == "ok\n"
    assert podman("exec", container, "id", "-u").stdout == "5559\n"
    assert "systemd " not in podman("exec", container, "dpkg-query", "-W").stdout

    refused = podman("exec", container, "zqueued", "--upgrade", check=False)
    assert refused.returncode == 1
    assert "this zqueued is pid 1" in refused.stderr

    podman("kill", "-s", "HUP", container)
    wait_for(lambda: "config.reloaded" in said(podman, container), "a reload by SIGHUP")

    with podman.start(
        *("exec", container, "zqueuectl", "demo", "server", "--work", "1s", "--requests", "1")
    ) as server:
        with podman.start(
            *("exec", container, "zqueuectl", "demo", "client", "--requests", "1")
        ) as client:
            wait_for(lambda: in_flight(podman, container) == 1, "a request at the server")
            podman("stop", container)
            client.communicate(timeout=60)
        server.communicate(timeout=60)
    log = said(podman, container)
    assert "event=queue.drained" in log
    assert re.search(r"event=queue.stopped .* lost=0", log)
    state = json.loads(podman("inspect", container).stdout)[0]["State"]
    assert state["ExitCode"] == 0


def said(podman: Podman, container: str) -> str:
    done = podman("logs", container)
    return done.stdout + done.stderr


def in_flight(podman: Podman, container: str) -> int:
    status = podman("exec", container, "zqueuectl", "--json", "status").stdout
    count: int = json.loads(status)["queues"][0]["in_flight"]
    return count


def test_the_pod_of_kubernetes_runs(podman: Podman, tmp_path: Path) -> None:
    pod = (CONTAINER / "kubernetes.yaml").read_text().replace("localhost/zqueue:latest", IMAGE)
    without_ports = re.sub(r" {10}ports:\n(?: {12,}.*\n)+", "", pod)
    assert without_ports != pod
    path = tmp_path / "pod.yaml"
    path.write_text(without_ports)
    podman("play", "kube", "--network=none", str(path))
    try:
        name = "zqueue-pod-0-zqueued"
        wait_for(lambda: is_ready(podman, name), "zqueued in a pod")
        probe = (
            "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:9560{}').status)"
        )
        for page in re.findall(r"path: (/\w+z)$", pod, re.MULTILINE):
            shown = podman("exec", name, "python3", "-c", probe.format(page)).stdout
            assert shown == "200\n", page
        (before_its_end,) = re.findall(r'command: (\["zqueuectl".*\])', pod)
        podman("exec", name, *json.loads(before_its_end))
        assert not is_ready(podman, name), "it is drained"
    finally:
        podman("play", "kube", "--down", str(path))
