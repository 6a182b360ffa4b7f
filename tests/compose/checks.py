"""What must hold of the composed services."""

import json
import os
import re
import signal
import time
import urllib.request

from machine import Broken, wait_for

PATIENCE_S = 60
# A task that outlives the death of a coordinator: that one is back before it ends.
LONG_S = 12


def executors(composed, number):
    """So many are heard, at either coordinator."""
    for port in (8088, 8089):

        def heard(port=port):
            listed = json.loads(composed.orchestr8(port, "executors", "list", "-o", "json"))["executors"]
            if len(listed) != number or not all(set(one["queues"]) == {"default", "agents"} for one in listed):
                raise Broken(f"{listed}")
            return True

        wait_for(f"{number} executors at the coordinator of port {port}", heard, PATIENCE_S)


def work(composed):
    """A command runs as nobody's user in a root that it cannot change, and its result comes back, in both queues."""
    script = "id --user; touch /usr/x 2>/dev/null && exit 9; ls /run/secrets 2>/dev/null && exit 8; cat /proc/1/environ 2>/dev/null && exit 7; git --version >/dev/null"
    for queue in ("default", "agents"):
        begun = time.monotonic()
        said = composed.orchestr8(8089, "task", "--wait", "--queue", queue, "--run", script).strip()
        if said != "10001":
            raise Broken(f"the task of {queue} said {said}")
    return f"a task ran as user {said} and ended after {time.monotonic() - begun:.1f} s"


def isolation(composed):
    """Executors reach NATS, and neither Postgres nor the API nor what watches, whatever address they try."""
    [executor, *_], [coordinator] = composed.containers("executor"), composed.containers("coordinator-1")
    for service, port in (("postgres", 5432), ("coordinator-1", 8088), ("prometheus", 9090)):
        [container] = composed.containers(service)
        for address in addresses(composed, container):
            if reaches(composed, executor, address, port):
                raise Broken(f"an executor reaches {service} at {address}:{port}")
        if not any(reaches(composed, coordinator, address, port) for address in addresses(composed, container)):
            raise Broken(f"a coordinator does not reach {service} either: this check shows nothing")
    [nats] = composed.containers("nats")
    if not any(reaches(composed, executor, address, 4222) for address in addresses(composed, nats)):
        raise Broken("an executor does not reach NATS")


def addresses(composed, container):
    """The container's addresses in all of its networks."""
    [described] = json.loads(composed.daemon.docker("inspect", container))
    return [network["IPAddress"] for network in described["NetworkSettings"]["Networks"].values()]


def reaches(composed, container, address, port):
    """Whether a connection is made from inside a container. A silent server and a dropped attempt end alike: what curl tells differs."""
    tried = f"curl --verbose --silent --max-time 2 telnet://{address}:{port} </dev/null 2>&1 | grep 'Connected to' || true"
    return composed.daemon.docker("exec", container, "sh", "-c", tried).strip() != ""


def watching(composed):
    """Prometheus scrapes both coordinators with the token that compose gives it, and has taken every rule."""

    def scraped():
        targets = asked("http://127.0.0.1:9090/api/v1/targets?state=active")["activeTargets"]
        health = sorted((target["labels"]["instance"], target["health"]) for target in targets)
        if health != [("coordinator-1:8088", "up"), ("coordinator-2:8088", "up")]:
            raise Broken(f"{health}: {[target['lastError'] for target in targets]}")
        return len(targets)

    targets = wait_for("Prometheus to scrape both coordinators", scraped, PATIENCE_S)
    rules = [rule for group in asked("http://127.0.0.1:9090/api/v1/rules")["groups"] for rule in group["rules"]]
    if len(rules) < 15:
        raise Broken(f"Prometheus has only {len(rules)} rules")
    return f"Prometheus scrapes {targets} coordinators and has {len(rules)} rules"


def traced(composed):
    """The collector takes the coordinators' spans of the tasks that have run, and shows them in its log."""
    [collector] = composed.containers("collector")

    def taken():
        log = composed.daemon.logs(collector)
        return sum(int(number) for number in re.findall(r'"otelcol.component.id": "debug".*"spans": (\d+)', log))

    return f"the collector has {wait_for('spans at the collector', taken, PATIENCE_S)} spans"


def asked(url):
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=10) as answer:
        return json.load(answer)["data"]


def killed_coordinator(composed):
    """A coordinator that dies comes back by itself, and a task that ran meanwhile ends once."""
    task = composed.orchestr8(8089, "task", "--run", f"sleep {LONG_S}; echo ended").split()[0]
    wait_for("the task to run", lambda: described(composed, task)["status"] == "running", PATIENCE_S)
    [coordinator] = composed.containers("coordinator-1")
    state = "{{.State.Pid}} {{.RestartCount}} {{.State.Health.Status}}"
    process, restarts, _ = composed.daemon.docker("inspect", "--format", state, coordinator).split()
    begun = time.monotonic()
    os.kill(int(process), signal.SIGKILL)

    def back():
        now, count, health = composed.daemon.docker("inspect", "--format", state, coordinator).split()
        return now not in ("0", process) and int(count) > int(restarts) and health == "healthy"

    wait_for("the killed coordinator to be healthy again", back, PATIENCE_S)
    took = time.monotonic() - begun
    composed.orchestr8(8088, "wait", task, "--timeout", "60s")
    found = described(composed, task)
    if (found["status"], found["attempts"]) != ("completed", 1):
        raise Broken(f"the task that ran meanwhile: {found}")
    return f"a killed coordinator was healthy again after {took:.1f} s, and the task that ran meanwhile ended at its first attempt"


def described(composed, task):
    return json.loads(composed.orchestr8(8089, "status", task, "-o", "json"))


def nothing_left(composed):
    for words in (("ps", "--all"), ("volume", "ls")):
        if left := composed.daemon.docker(*words, "--quiet").split():
            raise Broken(f"`docker {' '.join(words)}` after `compose down`: {left}")
