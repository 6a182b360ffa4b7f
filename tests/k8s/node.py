"""One node: its network, its mounts, containerd, kubelet, kube-proxy, and the images that it is given."""

import json

from machine import NAME, run, wait_for

PAUSE = "localhost/pause:1"
PLUGINS = "/usr/lib/cni"
START_PATIENCE_S = 60


class Node:
    """Number 1 keeps the servers with state; number 2 is drained and cut off."""

    def __init__(self, cluster, number):
        self.cluster = cluster
        self.machine = cluster.machine
        self.number = number
        self.name = f"node-{number}"
        self.network = f"{NAME}-{self.name}"
        self.link = f"node{number}"
        self.address = f"198.18.0.{10 + number}"
        self.pods = f"10.244.{number}.0/24"
        self.folder = self.machine.folder / self.name
        self.socket = self.folder / "containerd.sock"
        self.children = {}
        self.process = None

    def make_network(self):
        """A namespace with one end of a cable, whose other end is at the bridge of the control plane."""
        control = self.cluster_network()
        ip = ("ip", "-n", self.network)
        run("ip", "netns", "add", self.network)
        run("ip", "-n", control, "link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", self.network)
        run("ip", "-n", control, "link", "set", self.link, "master", "nodes", "up")
        run(*ip, "link", "set", "lo", "up")
        run(*ip, "address", "add", f"{self.address}/24", "dev", "eth0")
        run(*ip, "link", "set", "eth0", "up")
        run(*ip, "route", "add", "default", "via", "198.18.0.1")
        run("nsenter", f"--net=/run/netns/{self.network}", "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")

    def cluster_network(self):
        return f"{NAME}-control"

    def cut_off(self):
        """Nothing reaches it and nothing leaves it; what runs there runs on."""
        run("ip", "-n", self.cluster_network(), "link", "set", self.link, "down")

    def bring_back(self):
        run("ip", "-n", self.cluster_network(), "link", "set", self.link, "up")

    def start(self):
        """All that a node runs. The node is Ready some seconds later."""
        for part in ("containerd", "cni", "addresses", "kubelet", "pod-logs"):
            (self.folder / part).mkdir(parents=True)
        self._enter_mounts()
        self._start_containerd()
        self._start_kubelet()
        self._start_proxy()

    def load(self, archive, *tags):
        """Imports an image and gives it further names."""
        self.ctr("images", "import", archive)
        for present, tag in zip(tags, tags[1:]):
            self.ctr("images", "tag", present, tag)

    def ctr(self, *words):
        return run("nsenter", f"--target={self.process.pid}", "--mount", "ctr", "--address", self.socket, "--namespace", "k8s.io", *words)

    def _enter_mounts(self):
        """The process whose mount namespace is the node's: the machine sees none of its mounts, and they go with it."""
        own = "mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /var/log && mount -t tmpfs tmpfs /var/lib/cni"
        kubelet = f"mount --bind {self.folder}/kubelet /var/lib/kubelet && mount --make-rshared /var/lib/kubelet"
        entry = f"{own} && {kubelet} && echo entered && exec sleep infinity"
        shell = ("unshare", "--mount", "--propagation", "private", "sh", "-c", entry)
        self.process = self._start("mounts", shell, network=self.network)
        wait_for("the mounts of a node", lambda: "entered" in self.machine.tail_of(f"{self.name}-mounts"), START_PATIENCE_S)

    def _start_containerd(self):
        network = {"type": "ptp", "ipam": {"type": "host-local", "ranges": [[{"subnet": self.pods}]], "routes": [{"dst": "0.0.0.0/0"}]}}
        network["ipam"]["dataDir"] = str(self.folder / "addresses")
        plugins = [network, {"type": "portmap", "capabilities": {"portMappings": True}}]
        configuration = {"cniVersion": "1.0.0", "name": "pods", "plugins": plugins}
        (self.folder / "cni" / "10-pods.conflist").write_text(json.dumps(configuration))
        (self.folder / "containerd.toml").write_text(self._containerd_configuration())
        self._start("containerd", ("containerd", "--config", self.folder / "containerd.toml"), node=self.process.pid)
        wait_for("containerd does not answer", lambda: self.ctr("version"), START_PATIENCE_S)

    def _containerd_configuration(self):
        return f"""version = 2
root = "{self.folder}/containerd"
state = "/run/containerd/state"
[grpc]
address = "{self.socket}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
restrict_oom_score_adj = true
disable_apparmor = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{PLUGINS}"
conf_dir = "{self.folder}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
"""

    def _start_kubelet(self):
        authority = self.cluster.authority
        authority.issue(self.name, f"system:node:{self.name}", [self.address])
        names = self.folder / "resolv.conf"
        names.write_text("")
        configuration = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True}, "x509": {"clientCAFile": str(authority.certificate)}},
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(authority.folder / f"{self.name}.crt"),
            "tlsPrivateKeyFile": str(authority.folder / f"{self.name}.key"),
            "containerRuntimeEndpoint": f"unix://{self.socket}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": self.machine.make_cgroup(self.name),
            "failCgroupV1": False,
            "failSwapOn": False,
            "oomScoreAdj": 0,
            "enforceNodeAllocatable": [],
            "podLogsDir": str(self.folder / "pod-logs"),
            "clusterDNS": ["10.96.0.10"],
            "clusterDomain": "cluster.local",
            "resolvConf": str(names),
            # The disk is the machine's: how full it is says nothing about the node.
            "evictionHard": {"memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%", "nodefs.inodesFree": "0%"},
            "imageGCHighThresholdPercent": 100,
        }
        (self.folder / "kubelet.json").write_text(json.dumps(configuration))
        access = self.cluster.kubeconfig(self.name, self.folder / "access.json")
        words = ("--config", self.folder / "kubelet.json", "--kubeconfig", access, "--hostname-override", self.name, "--node-ip", self.address)
        self._start("kubelet", (self.cluster.programs / "kubelet", *words), node=self.process.pid)

    def _start_proxy(self):
        access = self.cluster.kubeconfig("admin", self.folder / "proxy.json")
        words = ("--kubeconfig", access, "--hostname-override", self.name, "--proxy-mode", "nftables", "--cluster-cidr", "10.244.0.0/16")
        limits = ("--conntrack-max-per-core", "0", "--conntrack-min", "0")
        self._start("kube-proxy", (self.cluster.programs / "kube-proxy", *words, *limits), node=self.process.pid)

    def _start(self, part, command, **where):
        name = f"{self.name}-{part}"
        self.children[name] = self.machine.start(name, command, **where)
        return self.children[name]
