"""`make compose-test`: deploy/compose.yaml, as it is, in containers of a docker daemon of its own.

Our image is made around the binary of `make build`, those of Postgres, NATS and Prometheus of what package registries have, that of the
collector of its Go modules, under the names that compose.yaml says: no registry of images is asked. Grafana cannot be made so and is
left out, and so is the collector without Go 1.26; both is said. The daemon has a network, mounts and storage of its own, and is gone at the end with everything that it made; nothing is
installed.

Needs root on Debian 12. Exit code 0: every check held; 1: one did not; 69: something that it needs is missing.
"""

import fcntl
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "k8s"))

import checks
import images
import tools
from daemon import Daemon, alone_in_a_network, programs
from machine import Broken, run

DEPLOY = tools.REPOSITORY / "deploy"
BINARY = Path(os.environ.get("ORCHESTR8") or tools.REPOSITORY / "target" / "debug" / "orchestr8")
# What compose.yaml calls them.
NAMES = {
    images.OURS[0]: "orchestr8:0.1.0",
    images.POSTGRES: "postgres:17.10",
    images.NATS: "nats:2.15.1",
    images.PROMETHEUS: "prom/prometheus:v2.53.3",
    images.COLLECTOR: f"otel/opentelemetry-collector:{tools.COLLECTOR}",
}
# The program that shows that a package of Debian is there.
PACKAGES = {
    "buildah": "buildah",
    "containerd": "containerd",
    "ip": "iproute2",
    "iptables": "iptables",
    "mmdebstrap": "mmdebstrap",
    "runc": "runc",
    "strip": "binutils",
}
STARTED = ("coordinator-1", "coordinator-2", "executor", "prometheus")
UP_PATIENCE_S = 300
UNAVAILABLE = 69


def main():
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, lambda *_: sys.exit(143))
    try:
        tools.require_debian()
        tools.require_packages(PACKAGES)
        lock = alone()
        found, archives = programs(), images.of_compose(BINARY, prometheus(), collector())
    except Broken as missing:
        print(f"compose-test: {missing}", file=sys.stderr)
        return UNAVAILABLE
    folder = Path(tempfile.mkdtemp(prefix="orchestr8-compose-"))
    alone_in_a_network()
    daemon = Daemon(folder, found)
    try:
        daemon.start()
        load(daemon, archives)
        test(Composed(daemon, folder, images.COLLECTOR in archives))
        print("compose-test: every check held", flush=True)
        return 0
    except Broken as broken:
        print(f"compose-test: {broken}", file=sys.stderr)
        return 1
    finally:
        # What is to be undone is undone, however often somebody presses Ctrl-C.
        for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(ending, signal.SIG_IGN)
        daemon.stop()
        shutil.rmtree(folder)
        lock.close()


def alone():
    """A lock that only one run of this machine has; it goes with the process."""
    lock = open("/run/lock/orchestr8-compose", "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Broken("another run is under way on this machine: wait for its end") from None
    return lock


def prometheus():
    """The program, fetched as for the tests of metrics."""
    if not BINARY.exists():
        raise Broken(f"{BINARY} is missing: run `make build`")
    run(DEPLOY / "observe-tools.sh")
    return tools.TOOLS / "prometheus" / "prometheus"


def collector():
    """The program, built where Go is; else None."""
    if not shutil.which("go") or not tools.go_version().startswith("go1.26"):
        return None
    return tools.collector() / "collector"


def load(daemon, archives):
    for name, archive in archives.items():
        daemon.docker("load", "--quiet", "--input", archive)
        daemon.docker("tag", name, NAMES[name])


class Composed:
    """A copy of deploy/compose.yaml with secrets of its own, and what runs of it."""

    def __init__(self, daemon, folder, has_collector):
        self.daemon = daemon
        self.has_collector = has_collector
        self.started = (*STARTED, "collector") if has_collector else STARTED
        self.file = folder / "deploy" / "compose.yaml"
        shutil.copytree(DEPLOY, folder / "deploy", ignore=shutil.ignore_patterns("secrets"))
        run(folder / "deploy" / "compose" / "secrets.sh")
        self.token = (folder / "deploy" / "compose" / "secrets" / "token").read_text()

    def compose(self, *words):
        return self.daemon.compose("--file", self.file, *words, timeout=UP_PATIENCE_S)

    def up(self, *words):
        """Until every started service is healthy; how many seconds that took."""
        begun = time.monotonic()
        self.compose("up", "--no-build", "--detach", "--wait", *words, *self.started)
        return round(time.monotonic() - begun, 1)

    def containers(self, service):
        """Names of the containers of a service, in their order."""
        listed = self.compose("ps", "--format", "json", service)
        return sorted(json.loads(line)["Name"] for line in listed.splitlines() if line.strip())

    def orchestr8(self, port, *words):
        """A command of ours against a coordinator's published port."""
        environment = {**os.environ, "ORCHESTR8_URL": f"http://127.0.0.1:{port}", "ORCHESTR8_TOKEN": self.token}
        return run(BINARY, *words, env=environment, timeout=120)


def test(composed):
    """Each step says what it saw; Broken where it is not as it should be."""
    left_out = sorted(set(composed.compose("config", "--services").split()) - {*composed.started, "nats", "postgres"})
    say(f"left out, since no package has it: {' '.join(left_out)}")
    if not composed.has_collector:
        say("the collector is built with Go 1.26, which is missing: install it and put it on PATH")
    say(f"up and healthy after {composed.up()} s")
    checks.executors(composed, 3)
    say(checks.work(composed))
    checks.isolation(composed)
    say(checks.watching(composed))
    if composed.has_collector:
        say(checks.traced(composed))
    say(f"five executors after {composed.up('--scale', 'executor=5')} s")
    checks.executors(composed, 5)
    say(checks.killed_coordinator(composed))
    composed.compose("down", "--volumes")
    checks.nothing_left(composed)


def say(message):
    print(f"compose-test: {message}", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
