"""`make k8s-test`: the chart on a real Kubernetes of two nodes, made on this machine from nothing, under load and faults.

    run.py          everything, then the machine is as before; target/k8s/latest.json has the figures
    run.py STEP...  installation, these steps of the scenario, uninstallation: scale kill_pods delete_pods drain upgrade cut_off autoscale keda
    run.py up       only the cluster, until Ctrl-C; prints how to reach it
    run.py down     remove what a run that was killed has left

With KEDA=1, everything has the step keda as well; by name it needs no KEDA=1.

Needs root on Debian 12. Exit code 0: every promise was kept; 1: one was broken; 69: something that it needs is missing.
"""

import fcntl
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import images
import scenario
import tools
from cluster import CONTROL, Cluster
from machine import Broken, Machine
from report import FILE, Report

FOLDER = Path("/var/lib/orchestr8-k8s")
BINARY = Path(os.environ.get("ORCHESTR8") or tools.REPOSITORY / "target" / "debug" / "orchestr8")
USAGE, UNAVAILABLE = 2, 69


def main(words):
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, lambda *_: sys.exit(143))
    steps = words or scenario.usual_steps(os.environ)
    if words not in (["up"], ["down"]) and not set(steps) <= {*scenario.STEPS, scenario.KEDA_STEP}:
        print(__doc__, file=sys.stderr)
        return USAGE
    machine = Machine(FOLDER)
    try:
        tools.require()
        lock = alone()
        if words == ["down"]:
            machine.restore()
            return 0
        programs, archives = prepared(steps)
    except Broken as missing:
        print(f"k8s-test: {missing}", file=sys.stderr)
        return UNAVAILABLE
    try:
        return with_cluster(machine, programs, archives, stay if words == ["up"] else lambda *made: test(*made, steps))
    finally:
        # What is to be undone is undone, however often somebody presses Ctrl-C.
        for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(ending, signal.SIG_IGN)
        print("k8s-test: restoring the machine", flush=True)
        machine.restore()
        lock.close()


def alone():
    """A lock that only one run of this machine has; it goes with the process."""
    lock = open("/run/lock/orchestr8-k8s", "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Broken("another run has its cluster on this machine: wait for its end") from None
    return lock


def prepared(steps):
    """Programs and images for these steps, from the network while this process is still in the machine's."""
    tools.KEPT.mkdir(parents=True, exist_ok=True)
    for draft in tools.KEPT.glob("draft-*"):
        shutil.rmtree(draft)
    if not BINARY.exists():
        raise Broken(f"{BINARY} is missing: run `make build`")
    programs = {"kubernetes": tools.kubernetes(), "coredns": tools.coredns(), "tools": tools.helm_and_kubectl()}
    keda = tools.keda() if scenario.KEDA_STEP in steps else None
    return programs, images.of_cluster(BINARY, programs["kubernetes"], keda)


def with_cluster(machine, programs, archives, work):
    """Removes what an earlier run has left, makes the cluster and works on it."""
    machine.restore()
    report = Report()
    try:
        machine.prepare()
        cluster = Cluster(machine, programs["kubernetes"], programs["coredns"], programs["tools"])
        begun = time.monotonic()
        cluster.up()
        report.time("cluster_ready_s", time.monotonic() - begun)
        for node in cluster.nodes:
            for name, archive in archives.items():
                node.load(archive, *(images.OURS if name in images.OURS else (name,)))
        return work(cluster, report)
    except (Broken, OSError) as error:
        report.broken.append(str(error))
        keep_logs(machine)
        return finished(report)


def test(cluster, report, steps):
    scenario.Scenario(cluster, report, steps).run()
    if report.complaints():
        keep_logs(cluster.machine)
    return finished(report)


def finished(report):
    report.write()
    print(f"{report.table()}\n{FILE}")
    return 0 if report.is_good() else 1


def stay(cluster, _):
    print(f"k8s-test: up; in a root shell: nsenter --net=/run/netns/{CONTROL} {cluster.tools}/kubectl --kubeconfig {cluster.folder}/admin.json get nodes")
    print("k8s-test: Ctrl-C removes it", flush=True)
    while True:
        signal.pause()


def keep_logs(machine):
    """What the processes of the cluster said stays beside the figures."""
    kept = FILE.parent / "logs"
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(machine.logs, kept)
    print(f"k8s-test: the logs are in {kept}", file=sys.stderr)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
