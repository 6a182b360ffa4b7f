"""What happens to the installation, in order: each step leaves it whole and says how long it took."""

import json
import time

import tools
from installation import CHART, COORDINATORS, EXECUTORS, Installation
from keda import Keda, holds
from ledger import Ledger
from load import Load
from machine import Broken, wait_for
from verdict import INBOX, judge, open_executions

SEED = 7
# A start of pods, on a machine that does other things as well.
PATIENCE_S = 180
# A loss is decided after 15 s; with more than half of the executors silent, after 60 s more.
RERUN_PATIENCE_S = 120
SETTLE_PATIENCE_S = 300
# Minutes: far longer than the pods of a roll take.
LONG_S = 130
CUT_S = 45
VALUES = CHART / "values.yaml"
# Executors from the first scaling on, on both nodes.
REPLICAS = 4
POOL_MAX = 3
SCALING = {"mode": "hpa", "minReplicas": 0, "maxReplicas": POOL_MAX, "cooldownSeconds": 5}
AUTOSCALING = {"externalMetrics": {"enabled": True}, "executors": {"default": {"slots": 4, "scaling": SCALING}}}
# KEDA asks the coordinators' API itself; external metrics are KEDA's then.
KEDA_SCALING = {**SCALING, "mode": "keda", "trigger": "metrics-api", "pollingSeconds": 2}
KEDA_VALUES = {"externalMetrics": {"enabled": False}, "executors": {"default": {"slots": 4, "scaling": KEDA_SCALING}}}
STEPS = ("scale", "kill_pods", "delete_pods", "drain", "upgrade", "cut_off", "autoscale")
KEDA_STEP = "keda"


def usual_steps(environment):
    """Those of a run that names none: KEDA's as well with KEDA=1, and last, since it takes the place of the coordinators' own metric."""
    return STEPS if environment.get("KEDA", "") in ("", "0") else (*STEPS, KEDA_STEP)


class Scenario:
    """One run over a cluster that is up."""

    def __init__(self, cluster, report, steps):
        self.steps = steps
        self.cluster = cluster
        self.report = report
        self.installation = Installation(cluster)

    def run(self):
        """Every step; what breaks is a complaint, and the verdict is given on what was promised until then."""
        if KEDA_STEP not in self.steps:
            self.report.say("keda_up_s and keda_to_zero_s are null: KEDA=1 measures them")
        self.installation.prepare()
        self.ledger = Ledger(self.installation.volumes / "ledger")
        self.before = self.installation.snapshot()
        self.install()
        try:
            self.load.begin()
            for step in self.steps:
                print(f"k8s-test: {step}", flush=True)
                getattr(self, step)()
                self.cluster.check()
        except (Broken, OSError) as error:
            self.report.broken.append(str(error))
        self.settle()
        self.uninstall()

    def install(self):
        """From nothing to the end of a first workflow."""
        begun = time.monotonic()
        self.installation.install()
        self.report.time("install_s", time.monotonic() - begun)
        self.load = Load(self.installation.api(), SEED)
        self.load.submit("chain")
        wait_for("the first workflow does not end", lambda: len(self.ledger.ends()) == 3, PATIENCE_S, 0.05)
        self.report.time("first_workflow_s", time.monotonic() - begun)
        self.installation.test()

    def scale(self):
        """2 to 6: until each of the six has ended a task. 6 to 1: until one pod is left. Then four, on both nodes."""
        begun = time.monotonic()
        self.installation.scale(EXECUTORS, 6)
        wait_for("six executors do not all work", lambda: len(self.workers_since(begun)) >= 6, PATIENCE_S)
        self.report.time("scale_up_s", time.monotonic() - begun)
        begun = time.monotonic()
        self.installation.scale(EXECUTORS, 1)
        is_alone = lambda: len(self.installation.pods("executor-default")) == 1
        wait_for("five executors do not leave", is_alone, PATIENCE_S)
        self.report.time("scale_down_s", time.monotonic() - begun)
        self.installation.scale(EXECUTORS, REPLICAS)
        self.whole()

    def kill_pods(self):
        """The processes of an executor and of a coordinator end at once, and are started again in their pods."""
        for component in ("executor-default", "coordinator"):
            pod = self.victim(component)
            name, restarts = pod["metadata"]["name"], restarts_of(pod)
            self.installation.kill(pod)
            again = lambda name=name, restarts=restarts: restarts_of(self.installation.get("pod", name)) > restarts
            wait_for(f"{name} is not started again", again, PATIENCE_S)
            self.whole()

    def delete_pods(self):
        """The API server forgets an executor and a coordinator at once; others take their places."""
        for component in ("executor-default", "coordinator"):
            name = self.victim(component)["metadata"]["name"]
            self.installation.kubectl("delete", "pod", name, "--force", "--grace-period=0")
            self.whole()

    def drain(self):
        """Everything leaves the second node, as long as its tasks want."""
        node = self.cluster.nodes[1].name
        wait_for(f"nothing runs on {node}", lambda: self.ledger.open_on(node), PATIENCE_S)
        begun = time.monotonic()
        self.cluster.kubectl("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=400s")
        self.report.time("drain_s", time.monotonic() - begun)
        self.whole()
        self.cluster.kubectl("uncordon", node)

    def upgrade(self):
        """Every pod of ours is replaced while a task runs that is longer than the roll: its run is not disturbed."""
        self.installation.scale(EXECUTORS, REPLICAS)
        [task] = self.load.submit("long", LONG_S)
        wait_for("the long task does not start", lambda: self.ledger.starts(task), PATIENCE_S)
        begun = time.monotonic()
        # The number that `kubectl scale` has set: helm refuses to set another one without `--force-conflicts`.
        self.installation.upgrade("--set-string", "image.tag=2", "--set", f"executors.default.scaling.replicas={REPLICAS}")
        wait_for("old pods do not leave", self.is_replaced, PATIENCE_S + LONG_S)
        self.report.time("rolling_upgrade_s", time.monotonic() - begun)
        if len(self.ledger.starts(task)) != 1 or task not in {entry.task for entry in self.ledger.ends()}:
            raise Broken(f"the long task {task} did not run through: {[entry for entry in self.ledger.entries() if entry.task == task]}")
        self.whole()

    def is_replaced(self):
        pods = self.installation.pods("executor-default") + self.installation.pods("coordinator")
        return all(pod["spec"]["containers"][0]["image"].endswith(":2") for pod in pods)

    def cut_off(self):
        """The second node's cable is pulled: its work runs again elsewhere. Back, it is Ready and works."""
        node = self.cluster.nodes[1]
        for _ in range(8):
            self.load.submit("long", CUT_S)
        wait_for(f"nothing long runs on {node.name}", lambda: self.long_on(node), PATIENCE_S)
        node.cut_off()
        try:
            self.without(node)
        finally:
            node.bring_back()
        begun = time.monotonic()
        wait_for(f"{node.name} is not Ready", lambda: self.cluster.is_ready(node.name), PATIENCE_S)
        wait_for(f"{node.name} does not work", lambda: self.ended_on(node, begun), PATIENCE_S)
        self.report.time("partition_recovery_s", time.monotonic() - begun)
        self.whole()

    def without(self, node):
        """Until all of its long tasks run again elsewhere and the API server has missed it."""
        begun = time.monotonic()
        tasks = self.long_on(node)
        again = lambda: all(self.runs_elsewhere(task, node) for task in tasks)
        wait_for("what ran there does not run again", again, RERUN_PATIENCE_S)
        self.report.say(f"{len(tasks)} tasks of the node that was cut off ran again elsewhere within {time.monotonic() - begun:.1f} s")
        wait_for("the node is not missed", lambda: not self.cluster.is_ready(node.name), PATIENCE_S)

    def autoscale(self):
        """The load ends; then 0 to N to 0 by the chart's autoscaler and our own external metric, where the chart can have the coordinators serve it."""
        if "externalMetrics:" not in VALUES.read_text():
            self.report.say("hpa_up_s and hpa_to_zero_s are null: this chart's coordinators do not serve external.metrics.k8s.io")
            return
        self.load.end()
        self.drained()
        self.installation.upgrade("--values", "-", input=json.dumps(AUTOSCALING))
        self.up_and_to_zero("hpa")

    def keda(self):
        """The load ends; then 0 to N to 0 by the chart's ScaledObject, whose uninstallation is KEDA's part too."""
        self.load.end()
        self.drained()
        keda = Keda(self.cluster, tools.keda() / "config")
        # The coordinators leave the external metrics to KEDA before it comes; the replicas stay as they are meanwhile.
        self.installation.upgrade("--set", "externalMetrics.enabled=false")
        wait_for("the coordinators' external metrics are still there", keda.is_free, PATIENCE_S)
        present, begun = self.installation.snapshot(), time.monotonic()
        keda.install()
        self.report.say(f"KEDA was there after {time.monotonic() - begun:.1f} s")
        # KEDA's own things may stay when the release goes.
        self.before |= self.installation.snapshot() - present
        self.installation.upgrade("--values", "-", input=json.dumps(KEDA_VALUES))
        is_followed = lambda: holds("Ready", self.installation.get("scaledobject", EXECUTORS))
        wait_for("KEDA does not follow the ScaledObject", is_followed, PATIENCE_S)
        self.up_and_to_zero("keda")

    def up_and_to_zero(self, scaler):
        """The times from work for an idle pool at zero to N executors that work, and from its end to the last pod's."""
        gone = lambda: not self.installation.pods("executor-default")
        wait_for(f"{scaler} does not scale to zero without work", gone, PATIENCE_S)
        begun = time.monotonic()
        for _ in range(4 * POOL_MAX):
            self.load.submit("long", 30)
        wait_for(f"{POOL_MAX} executors do not all start", lambda: self.starters_since(begun) >= POOL_MAX, PATIENCE_S)
        self.report.time(f"{scaler}_up_s", time.monotonic() - begun)
        self.drained()
        begun = time.monotonic()
        wait_for(f"{scaler} does not scale to zero", gone, PATIENCE_S)
        self.report.time(f"{scaler}_to_zero_s", time.monotonic() - begun)

    def starters_since(self, since_s):
        return len({entry.executor for entry in self.ledger.entries() if entry.mark == "start" and entry.seen_s > since_s})

    def drained(self):
        """Waits until everything that was accepted has ended."""
        database = self.installation.database
        settled = lambda: not open_executions(database, self.load.accepted()) and not database(INBOX)
        wait_for("not everything has ended", settled, SETTLE_PATIENCE_S, 1)

    def long_on(self, node):
        return {entry.task for entry in self.ledger.open_on(node.name) if entry.kind == "long"}

    def runs_elsewhere(self, task, node):
        return any(entry.node != node.name for entry in self.ledger.starts(task))

    def ended_on(self, node, since_s):
        """Whether a run that began there since then has ended."""
        begun = {entry.run for entry in self.ledger.entries() if entry.mark == "start" and entry.node == node.name and entry.seen_s > since_s}
        return any(entry.run in begun for entry in self.ledger.ends())

    def workers_since(self, since_s):
        return {entry.executor for entry in self.ledger.ends() if entry.seen_s > since_s}

    def victim(self, component):
        """A pod that is Ready; of executors one that has work."""
        busy = {entry.executor for node in self.cluster.nodes for entry in self.ledger.open_on(node.name)}

        def found():
            pods = [pod for pod in self.installation.pods(component) if is_ready(pod)]
            return next((pod for pod in pods if component == "coordinator" or pod["metadata"]["name"] in busy), None)

        return wait_for(f"no {component} to strike", found, PATIENCE_S)

    def whole(self):
        """Waits until all pods are there and a new task ends."""
        for deployment in (EXECUTORS, COORDINATORS):
            wait_for(f"{deployment} is not whole", lambda name=deployment: self.installation.is_rolled_out(name), PATIENCE_S)
        [task] = self.load.submit("quick")
        wait_for("a new task does not end", lambda: any(entry.task == task for entry in self.ledger.ends()), PATIENCE_S)

    def settle(self):
        """The verdict, once everything has ended or patience has."""
        self.load.end()
        try:
            self.drained()
        except Broken as error:
            self.report.broken.append(str(error))
        self.report.verdict = judge(self.installation.database, self.load, self.ledger.entries())

    def uninstall(self):
        """Nothing is left of the release."""
        self.installation.uninstall()
        left = lambda: self.installation.snapshot() - self.before
        try:
            wait_for("the uninstallation left something", lambda: not left(), PATIENCE_S, 1)
        except Broken as error:
            raise Broken(f"{error}: {sorted(left())}") from error


def is_ready(pod):
    conditions = pod["status"].get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions) and "deletionTimestamp" not in pod["metadata"]


def restarts_of(pod):
    return sum(one["restartCount"] for one in pod["status"].get("containerStatuses", []))
