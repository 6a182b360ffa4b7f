"""A Kubernetes of one control plane and two nodes on this machine: each node is a network and a mount namespace.

The control plane (etcd, API server, controller manager, scheduler, CoreDNS) shares a network namespace with the bridge to the nodes.
Pods have a network a node and routes between them.
"""

import json
import secrets
from pathlib import Path

from machine import NAME, Broken, enter_network, run, wait_for
from node import Node
from pki import Authority

CONTROL = f"{NAME}-control"
CONTROL_ADDRESS = "198.18.0.1"
API = f"https://{CONTROL_ADDRESS}:6443"
SERVICES = "10.96.0.0/16"
PODS = "10.244.0.0/16"
DNS_SERVICE = "10.96.0.10"
NODES = 2
READY_PATIENCE_S = 180


class Cluster:
    """Up from `up()` until the machine is restored."""

    def __init__(self, machine, programs, coredns, tools):
        self.machine = machine
        self.programs = programs
        self.coredns = coredns
        self.tools = tools
        self.folder = machine.folder / "control"
        self.tokens = {name: secrets.token_hex(16) for name in ("admin", *(f"node-{number}" for number in range(1, NODES + 1)))}
        self.nodes = [Node(self, number) for number in range(1, NODES + 1)]
        self.children = {}

    def up(self):
        """From nothing to two nodes that are Ready. From here on this process is in the network of the control plane."""
        self.folder.mkdir(parents=True)
        self.authority = Authority(self.folder)
        self._networks()
        enter_network(CONTROL)
        self._certificates()
        self._control_plane()
        for node in self.nodes:
            node.start()
        self._dns()
        for node in self.nodes:
            wait_for(f"{node.name} is not Ready", lambda node=node: self.is_ready(node.name), READY_PATIENCE_S)

    def is_ready(self, name):
        found = self.get("node", name)
        return any(one["type"] == "Ready" and one["status"] == "True" for one in found["status"]["conditions"])

    def kubectl(self, *words, **options):
        return self._tool("kubectl", *words, **options)

    def helm(self, *words, **options):
        return self._tool("helm", *words, **options)

    def _tool(self, name, *words, **options):
        # A home of its own: neither the settings nor the caches of whoever runs this.
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(self.folder)}
        return run(self.tools / name, "--kubeconfig", self.folder / "admin.json", *words, env=environment, **options)

    def get(self, *words):
        return json.loads(self.kubectl("get", *words, "--output", "json"))

    def apply(self, *manifests):
        listed = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
        self.kubectl("apply", "--filename", "-", input=json.dumps(listed))

    def check(self):
        """Broken where a process of the cluster has ended by itself."""
        children = dict(self.children)
        for node in self.nodes:
            children.update(node.children)
        for name, child in children.items():
            if child.poll() is not None:
                raise Broken(f"{name} ended with {child.returncode}: {self.machine.tail_of(name)}")

    def kubeconfig(self, user, file):
        """A file with which programs reach the API server as this user."""
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": NAME, "cluster": {"server": API, "certificate-authority": str(self.authority.certificate)}}],
            "users": [{"name": user, "user": {"token": self.tokens[user]}}],
            "contexts": [{"name": NAME, "context": {"cluster": NAME, "user": user}}],
            "current-context": NAME,
        }
        Path(file).write_text(json.dumps(content))
        Path(file).chmod(0o600)
        return file

    def _networks(self):
        ip(None, "netns", "add", CONTROL)
        ip(CONTROL, "link", "set", "lo", "up")
        ip(CONTROL, "link", "add", "nodes", "type", "bridge")
        ip(CONTROL, "address", "add", f"{CONTROL_ADDRESS}/24", "dev", "nodes")
        ip(CONTROL, "link", "set", "nodes", "up")
        for node in self.nodes:
            node.make_network()
        for node in self.nodes:
            ip(CONTROL, "route", "add", node.pods, "via", node.address)
            for other in self.nodes:
                if other is not node:
                    ip(node.network, "route", "add", other.pods, "via", other.address)
        # The first node is never cut off: services are reached through it.
        ip(CONTROL, "route", "add", SERVICES, "via", self.nodes[0].address)

    def _certificates(self):
        self.authority.issue("api", "kube-apiserver", [CONTROL_ADDRESS, "10.96.0.1", "127.0.0.1"])
        self.authority.issue("kubelet-client", "kube-apiserver-kubelet", [], "system:masters")
        self.authority.issue("front-proxy", "front-proxy", [])
        self.authority.key("service-accounts")
        lines = [f"{self.tokens['admin']},admin,admin,system:masters"]
        lines += [f"{self.tokens[node.name]},system:node:{node.name},{node.name},system:nodes" for node in self.nodes]
        tokens = self.folder / "tokens.csv"
        tokens.write_text("\n".join(lines) + "\n")
        tokens.chmod(0o600)
        self.kubeconfig("admin", self.folder / "admin.json")

    def _control_plane(self):
        self._start("etcd", self.programs / "etcd", "--data-dir", self.folder / "etcd", "--unsafe-no-fsync", "--log-level", "warn")
        self._start("kube-apiserver", self.programs / "kube-apiserver", *self._api_server())
        wait_for("the API server is not ready", self._api_is_ready, READY_PATIENCE_S)
        admin = self.folder / "admin.json"
        self._start(
            "kube-controller-manager",
            self.programs / "kube-controller-manager",
            f"--kubeconfig={admin}",
            f"--service-account-private-key-file={self.folder / 'service-accounts.key'}",
            f"--root-ca-file={self.authority.certificate}",
            "--leader-elect=false",
            "--allocate-node-cidrs=false",
            "--feature-gates=HPAScaleToZero=true",
            "--horizontal-pod-autoscaler-sync-period=5s",
            "--horizontal-pod-autoscaler-downscale-stabilization=10s",
        )
        self._start("kube-scheduler", self.programs / "kube-scheduler", f"--kubeconfig={admin}", "--leader-elect=false")

    def _api_server(self):
        folder = self.folder
        return (
            "--etcd-servers=http://127.0.0.1:2379",
            f"--advertise-address={CONTROL_ADDRESS}",
            f"--bind-address={CONTROL_ADDRESS}",
            f"--service-cluster-ip-range={SERVICES}",
            f"--token-auth-file={folder / 'tokens.csv'}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            f"--client-ca-file={self.authority.certificate}",
            f"--tls-cert-file={folder / 'api.crt'}",
            f"--tls-private-key-file={folder / 'api.key'}",
            f"--kubelet-certificate-authority={self.authority.certificate}",
            f"--kubelet-client-certificate={folder / 'kubelet-client.crt'}",
            f"--kubelet-client-key={folder / 'kubelet-client.key'}",
            # A node's name is in no DNS.
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={folder / 'service-accounts.key'}",
            f"--service-account-signing-key-file={folder / 'service-accounts.key'}",
            f"--requestheader-client-ca-file={self.authority.certificate}",
            "--requestheader-allowed-names=front-proxy",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={folder / 'front-proxy.crt'}",
            f"--proxy-client-key-file={folder / 'front-proxy.key'}",
            # The control plane has no kube-proxy: it goes to the pods themselves.
            "--enable-aggregator-routing=true",
            "--feature-gates=HPAScaleToZero=true",
        )

    def _api_is_ready(self):
        self.check()
        return self.kubectl("get", "--raw", "/readyz", timeout=10) == "ok"

    def _dns(self):
        corefile = self.folder / "Corefile"
        corefile.write_text(
            f".:53 {{\n  bind {CONTROL_ADDRESS}\n  errors\n"
            f"  kubernetes cluster.local in-addr.arpa {{\n    kubeconfig {self.folder / 'admin.json'} {NAME}\n    ttl 5\n  }}\n}}\n"
        )
        self._start("coredns", self.coredns, "-conf", corefile)
        ports = [{"name": protocol.lower(), "port": 53, "protocol": protocol} for protocol in ("UDP", "TCP")]
        self.apply(
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "kube-dns", "namespace": "kube-system"},
                "spec": {"clusterIP": DNS_SERVICE, "ports": ports},
            },
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": {"kubernetes.io/service-name": "kube-dns"}},
                "addressType": "IPv4",
                "endpoints": [{"addresses": [CONTROL_ADDRESS]}],
                "ports": ports,
            },
        )

    def _start(self, name, *command):
        self.children[name] = self.machine.start(name, command)


def ip(network, *words):
    """The command of that name, in a network namespace."""
    return run("ip", *(["-n", network] if network else []), *words)
