"""The chart in the cluster: its values, its volumes, its pods, its database, and what an uninstall must not leave."""

import json

import images
from load import Api
from machine import Broken, wait_for
from tools import REPOSITORY
from verdict import rows

CHART = REPOSITORY / "helm" / "orchestr8"
TRIAL = CHART / "ci" / "trial.yaml"
NAMESPACE = "work"
RELEASE = "orchestr8"
EXECUTORS = "orchestr8-executor-default"
COORDINATORS = "orchestr8-coordinator"
# Longer than the longest task, so that no drain hands work back.
DRAIN_S = 150
INSTALL_PATIENCE = "8m"
SMALL = {"requests": {"cpu": "20m", "memory": "64Mi", "ephemeral-storage": "16Mi"}, "limits": {"memory": "1Gi", "ephemeral-storage": "1Gi"}}
# Kinds outside of a namespace that a chart could leave.
CLUSTER_KINDS = "clusterroles,clusterrolebindings,apiservices,customresourcedefinitions,validatingwebhookconfigurations,mutatingwebhookconfigurations"
# What comes and goes by itself.
FLEETING = ("events", "leases")


class Installation:
    """One release in one namespace that allows restricted pods alone."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.volumes = cluster.machine.folder / "volumes"

    def prepare(self):
        """The namespace, and the volumes: those of the servers on the first node, the ledger's for everybody."""
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        self.cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}})
        for claim in (f"store-{RELEASE}-nats-0", f"store-{RELEASE}-postgres-0"):
            self.cluster.apply(self._volume(claim, "ReadWriteOnce", [self.cluster.nodes[0].name]))
        claim = {"accessModes": ["ReadWriteMany"], "storageClassName": "", "volumeName": "ledger", "resources": {"requests": {"storage": "20Gi"}}}
        self.cluster.apply(
            self._volume("ledger", "ReadWriteMany", [node.name for node in self.cluster.nodes]),
            {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "ledger", "namespace": NAMESPACE}, "spec": claim},
        )
        # What every namespace gets, a moment later.
        wait_for("the namespace is not furnished", lambda: self.get("configmap", "kube-root-ca.crt") and self.get("serviceaccount", "default"), 60)

    def install(self):
        self._helm("install", "--values", TRIAL, "--values", "-", "--wait", "--timeout", INSTALL_PATIENCE, input=json.dumps(values()))

    def upgrade(self, *words, **options):
        self._helm("upgrade", "--reuse-values", *words, "--wait", "--timeout", INSTALL_PATIENCE, **options)

    def test(self):
        self.cluster.helm("test", RELEASE, "--namespace", NAMESPACE, "--logs")

    def uninstall(self):
        self.cluster.helm("uninstall", RELEASE, "--namespace", NAMESPACE, "--wait", "--timeout", INSTALL_PATIENCE)

    def api(self):
        """The coordinators' service and the token that the chart drew."""
        address = self.get("service", RELEASE)["spec"]["clusterIP"]
        token = self.kubectl("get", "secret", f"{RELEASE}-auth", "--output", "go-template={{.data.token | base64decode}}")
        return Api(f"{address}:8088", token.strip())

    def database(self, query):
        """The rows of a query, as dictionaries."""
        ask = f"select row_to_json(q) from ({query}) q"
        words = ("psql", "--host=/var/run/postgresql", "--username=orchestr8", "--no-align", "--tuples-only", "--command", ask)
        return rows(self.kubectl("exec", f"{RELEASE}-postgres-0", "--", *words))

    def kubectl(self, *words, **options):
        return self.cluster.kubectl("--namespace", NAMESPACE, *words, **options)

    def get(self, *words):
        return json.loads(self.kubectl("get", *words, "--output", "json"))

    def pods(self, component):
        """Pods of `coordinator` or `executor-default`, also those that are ending."""
        return self.get("pods", "--selector", f"app.kubernetes.io/instance={RELEASE},app.kubernetes.io/component={component}")["items"]

    def scale(self, deployment, replicas):
        self.kubectl("scale", f"deployment/{deployment}", f"--replicas={replicas}")

    def is_rolled_out(self, deployment):
        found = self.get("deployment", deployment)
        wanted, status = found["spec"]["replicas"], found["status"]
        is_current = status.get("observedGeneration", 0) >= found["metadata"]["generation"]
        return is_current and status.get("updatedReplicas") == status.get("readyReplicas") == status.get("replicas") == wanted

    def kill(self, pod):
        """SIGKILL for the pod's container, past the API server."""
        node = next(node for node in self.cluster.nodes if node.name == pod["spec"]["nodeName"])
        container = pod["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
        node.ctr("tasks", "kill", "--signal", "SIGKILL", container)

    def snapshot(self):
        """Names of everything that is there, in the namespace and beside it."""
        kinds = self.kubectl("api-resources", "--namespaced", "--verbs=list", "--output", "name").split()
        kinds = ",".join(kind for kind in kinds if not kind.startswith(FLEETING))
        inside = self.kubectl("get", kinds, "--output", "name", "--ignore-not-found")
        return set(inside.split()) | set(self.kubectl("get", CLUSTER_KINDS, "--output", "name").split())

    def _helm(self, verb, *words, **options):
        try:
            self.cluster.helm(verb, RELEASE, CHART, "--namespace", NAMESPACE, *words, **options)
        except Broken as error:
            raise Broken(f"{error}\n{self._what_hangs()}") from error

    def _what_hangs(self):
        events = self.kubectl("get", "events", "--sort-by=.lastTimestamp", "--field-selector=type=Warning")
        return self.kubectl("get", "pods", "--output", "wide") + "\n".join(events.splitlines()[-15:])

    def _volume(self, claim, mode, nodes):
        folder = self.volumes / claim
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o777)
        hosts = {"key": "kubernetes.io/hostname", "operator": "In", "values": nodes}
        return {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": claim},
            "spec": {
                "capacity": {"storage": "20Gi"},
                "accessModes": [mode],
                "hostPath": {"path": str(folder)},
                "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": NAMESPACE, "name": claim},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [hosts]}]}},
                "persistentVolumeReclaimPolicy": "Retain",
            },
        }


def values():
    """Those of a trial, with two coordinators and two executors, our images, and a ledger."""

    def field(name, path):
        return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}

    repository, tag = images.OURS[0].split(":")
    return {
        "image": {"repository": repository, "tag": tag},
        "coordinator": {"replicas": 2, "resources": SMALL},
        "postgres": {"image": images.POSTGRES, "resources": SMALL},
        "nats": {"image": images.NATS, "resources": SMALL},
        "executors": {
            "default": {
                "slots": 8,
                "drainTimeoutSeconds": DRAIN_S,
                "minReadySeconds": 2,
                "scaling": {"replicas": 2},
                "resources": SMALL,
                "env": [field("EXECUTOR", "metadata.name"), field("NODE", "spec.nodeName")],
                "volumes": [{"name": "ledger", "persistentVolumeClaim": {"claimName": "ledger"}}],
                "volumeMounts": [{"name": "ledger", "mountPath": "/ledger"}],
            }
        },
    }
