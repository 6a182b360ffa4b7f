"""KEDA in the cluster: its own minimal configuration around our images of its operator and its adapter."""

import json
import os

import images
from machine import Broken, wait_for

NAMESPACE = "keda"
# One server of external metrics is all that a cluster has.
SERVICE = "v1beta1.external.metrics.k8s.io"
# It makes certificates, starts again for them, and waits for the lease of its first start.
PATIENCE_S = 240
DEPLOYMENTS = ("keda-operator", "keda-metrics-apiserver")
# What its configuration calls the images.
UPSTREAM = {"ghcr.io/kedacore/keda": images.KEDA, "ghcr.io/kedacore/keda-metrics-apiserver": images.KEDA_ADAPTER}


class Keda:
    """One KEDA for all namespaces; `source` is the folder of its configuration."""

    def __init__(self, cluster, source):
        self.cluster = cluster
        self.source = source

    def is_free(self):
        """Whether nobody serves external metrics."""
        return not self.cluster.kubectl("get", "apiservice", SERVICE, "--ignore-not-found").strip()

    def install(self):
        """Until the operator and the adapter are there and the API server reaches the adapter."""
        overlay = self.cluster.folder / "keda"
        overlay.mkdir()
        (overlay / "kustomization.yaml").write_text(json.dumps(kustomization(os.path.relpath(self.source, overlay))))
        # Its resource definitions are too long for the annotation of an apply by the client.
        self.cluster.kubectl("apply", "--server-side", "--kustomize", overlay)
        try:
            wait_for("KEDA does not start", self._is_up, PATIENCE_S)
        except Broken as error:
            raise Broken(f"{error}\n{self._what_hangs()}") from error

    def _is_up(self):
        self.cluster.check()
        found = [self.cluster.get("--namespace", NAMESPACE, "deployment", name) for name in DEPLOYMENTS]
        return all(holds("Available", one) for one in (*found, self.cluster.get("apiservice", SERVICE)))

    def _what_hangs(self):
        events = self.cluster.kubectl("--namespace", NAMESPACE, "get", "events", "--field-selector=type=Warning")
        return self.cluster.kubectl("--namespace", NAMESPACE, "get", "pods", "--output", "wide") + "\n".join(events.splitlines()[-15:])


def holds(condition, found):
    """Whether an object of the cluster says so of itself."""
    return any(one["type"] == condition and one["status"] == "True" for one in found.get("status", {}).get("conditions", []))


def kustomization(source):
    """The minimal configuration in `source` with our images, which no registry has, and without its webhooks."""

    def changed(name, *changes):
        return {"target": {"kind": "Deployment", "name": name}, "patch": json.dumps(changes)}

    container = "/spec/template/spec/containers/0"
    present = {"op": "replace", "path": f"{container}/imagePullPolicy", "value": "IfNotPresent"}
    no_webhooks = {"op": "add", "path": f"{container}/args/-", "value": "--enable-webhook-patching=false"}
    named = [(name, *image.split(":")) for name, image in UPSTREAM.items()]
    operator, adapter = DEPLOYMENTS
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [f"{source}/minimal"],
        "images": [{"name": name, "newName": ours, "newTag": tag} for name, ours, tag in named],
        "patches": [changed(operator, present, no_webhooks), changed(adapter, present)],
    }
