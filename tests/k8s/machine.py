"""What a run changes on the machine, and how all of it is undone, also after a crash: processes, cgroups, mounts, networks, settings.

Everything is found again by name: network namespaces and cgroups are called as below, the rest lies in one folder. A node's mounts
are made in a mount namespace of its own and go with its last process.
"""

import ctypes
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

NAME = "orchestr8-k8s"
CGROUPS = Path("/sys/fs/cgroup")
NETWORKS = Path("/run/netns")
# The kubelet writes them, and they belong to no namespace.
SETTINGS = ("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes")
# Where a mount namespace of a node has something of its own; a folder that the machine has not is made, and removed again.
PRIVATE_FOLDERS = ("/run", "/var/log", "/var/lib/cni", "/var/lib/kubelet")
END_PATIENCE_S = 60
CLONE_NEWNET = 0x40000000


class Broken(Exception):
    """Something did not work; the text says what, and what to do."""


def run(*command, **options):
    """Runs to the end and returns its output; Broken with what it said where it fails."""
    options = {"capture_output": True, "text": True, "timeout": 600, **options}
    done = subprocess.run([str(word) for word in command], check=False, **options)
    if done.returncode != 0:
        said = ((done.stdout or "") + (done.stderr or "")).strip()
        raise Broken(f"`{' '.join(str(word) for word in command)[:300]}` ended with {done.returncode}: {said[-2000:]}")
    return done.stdout


def wait_for(what, condition, patience_s, interval_s=0.2):
    """Waits until the condition gives something true, and returns that; errors of one look are shown if it never does."""
    until = time.monotonic() + patience_s
    last = ""
    while True:
        try:
            found = condition()
            if found:
                return found
        except (Broken, OSError, ValueError, KeyError, subprocess.TimeoutExpired) as error:
            last = f"; the last look said: {error}"
        if time.monotonic() > until:
            raise Broken(f"{what}: not within {patience_s} s{last}")
        time.sleep(interval_s)


def hierarchies():
    """The roots of all cgroup hierarchies: one with version 2, else one a controller."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    mounted = {line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if line.split()[2] in ("cgroup", "cgroup2")}
    return sorted(Path(point) for point in mounted)


def is_unified():
    return hierarchies() == [CGROUPS]


class Machine:
    """One folder and one name for all that a run leaves behind."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.logs = self.folder / "logs"
        self.saved = self.folder / "settings.json"

    def prepare(self):
        """Saves the machine's settings before anything changes them."""
        self.logs.mkdir(parents=True, exist_ok=True)
        made = [folder for folder in PRIVATE_FOLDERS if not Path(folder).exists()]
        settings = {name: (Path("/proc/sys") / name).read_text().strip() for name in SETTINGS if (Path("/proc/sys") / name).exists()}
        # The first `ip netns add` of a machine makes a mount of its folder.
        self.saved.write_text(json.dumps({"settings": settings, "folders": made, "had_networks": is_mounted(NETWORKS)}))
        for folder in made:
            Path(folder).mkdir(parents=True)
        self.make_cgroup("daemons")

    def make_cgroup(self, name):
        """A cgroup of ours in every hierarchy, with every processor and controller; its path as the kubelet names it."""
        for root in hierarchies():
            group = root
            for part in (NAME, *name.split("/")):
                if is_unified():
                    allowed = (group / "cgroup.controllers").read_text().split()
                    (group / "cgroup.subtree_control").write_text(" ".join(f"+{one}" for one in allowed))
                below = group / part
                below.mkdir(exist_ok=True)
                for key in ("cpuset.cpus", "cpuset.mems"):
                    if not is_unified() and (below / key).exists():
                        (below / key).write_text((group / key).read_text())
                group = below
        return f"/{NAME}/{name}"

    def start(self, name, command, network=None, node=None):
        """Starts a daemon in our cgroup, in a network namespace or inside a node; its output goes to a log of its name."""
        group = self._groups_of_daemons()
        inside = []
        if network:
            inside = ["nsenter", f"--net={NETWORKS / network}"]
        if node:
            inside = ["nsenter", f"--target={node}", "--mount", "--net"]

        def join():
            os.setsid()
            for procs in group:
                procs.write_text("0")

        with open(self.logs / f"{name}.log", "ab") as log:
            words = [str(word) for word in (*inside, *command)]
            return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=join)

    def tail_of(self, name, lines=5):
        text = (self.logs / f"{name}.log").read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def restore(self):
        """Undoes everything that a run, this one or one that crashed, has left. Says what could not be undone."""
        self._end_processes()
        if NETWORKS.exists():
            for network in NETWORKS.iterdir():
                if network.name.startswith(NAME):
                    run("ip", "netns", "delete", network.name)
        self._remove_cgroups()
        if self.saved.exists():
            self._restore_settings(json.loads(self.saved.read_text()))
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def _groups_of_daemons(self):
        return [root / NAME / "daemons" / "cgroup.procs" for root in hierarchies()]

    def _processes(self):
        found = set()
        for root in hierarchies():
            for procs in (root / NAME).glob("**/cgroup.procs"):
                try:
                    found.update(int(pid) for pid in procs.read_text().split())
                except OSError:
                    continue  # The group or its last process has just gone.
        return found

    def _end_processes(self):
        until = time.monotonic() + END_PATIENCE_S
        while processes := self._processes():
            if time.monotonic() > until:
                raise Broken(f"processes {sorted(processes)} of an earlier run do not end: end them by hand")
            for process in processes:
                try:
                    os.kill(process, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            reap()
            time.sleep(0.1)

    def _remove_cgroups(self):
        for root in hierarchies():
            groups = [root / NAME, *(path for path in (root / NAME).glob("**/*") if path.is_dir())]
            for group in sorted(groups, key=lambda path: len(path.parts), reverse=True):
                if group.exists():
                    wait_for(f"the cgroup {group} cannot be removed", lambda: remove(group), 10)

    def _restore_settings(self, saved):
        for name, value in saved["settings"].items():
            setting = Path("/proc/sys") / name
            if setting.read_text().strip() != value:
                setting.write_text(value)
        if not saved["had_networks"] and is_mounted(NETWORKS) and not any(NETWORKS.iterdir()):
            run("umount", NETWORKS)
            NETWORKS.rmdir()
        for folder in reversed(saved["folders"]):
            if Path(folder).exists():
                Path(folder).rmdir()


def is_mounted(folder):
    """Also a folder that is mounted on itself."""
    return any(line.split()[1] == str(folder) for line in Path("/proc/mounts").read_text().splitlines())


def remove(group):
    """Removes a cgroup; whether it is gone. Processes that were just ended hold it for a moment."""
    try:
        group.rmdir()
    except FileNotFoundError:
        pass
    return True


def reap():
    """Collects children of ours that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def enter_network(network):
    """This process, and what it starts from now on, is in that network namespace. To be called before any thread is started."""
    with open(NETWORKS / network) as target:
        if ctypes.CDLL(None, use_errno=True).setns(target.fileno(), CLONE_NEWNET) != 0:
            raise Broken(f"the network namespace {network} cannot be entered: {os.strerror(ctypes.get_errno())}")
