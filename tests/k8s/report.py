"""The figures of a run: the table, target/k8s/latest.json, and whether every promise was kept."""

import json

from tools import REPOSITORY

FILE = REPOSITORY / "target" / "k8s" / "latest.json"
# In the order of the table. None: not measured, and a message says why.
TIMES = (
    "cluster_ready_s",
    "install_s",
    "first_workflow_s",
    "scale_up_s",
    "scale_down_s",
    "hpa_up_s",
    "hpa_to_zero_s",
    "keda_up_s",
    "keda_to_zero_s",
    "rolling_upgrade_s",
    "drain_s",
    "partition_recovery_s",
)
COMPLAINTS_SHOWN_MAX = 20


class Report:
    """Filled step by step, so that a run that breaks off has told what it saw."""

    def __init__(self):
        self.times = dict.fromkeys(TIMES)
        self.messages = []
        self.verdict = None
        self.broken = []

    def time(self, name, seconds):
        assert name in self.times, name
        self.times[name] = round(seconds, 1)
        print(f"k8s-test: {name} {seconds:.1f}", flush=True)

    def say(self, message):
        self.messages.append(message)
        print(f"k8s-test: {message}", flush=True)

    def complaints(self):
        return self.broken + (self.verdict.complaints() if self.verdict else [])

    def is_good(self):
        return self.verdict is not None and not self.complaints()

    def counts(self):
        verdict = self.verdict
        if verdict is None:
            return dict.fromkeys(("accepted", "ended", "lost", "counted_twice", "stuck"))
        lists = {"lost": verdict.lost, "counted_twice": verdict.counted_twice, "stuck": verdict.stuck}
        return {"accepted": verdict.accepted, "ended": verdict.ended, **{name: len(found) for name, found in lists.items()}}

    def write(self):
        FILE.parent.mkdir(parents=True, exist_ok=True)
        content = {**self.times, **self.counts(), "complaints": self.complaints(), "messages": self.messages, "passed": self.is_good()}
        FILE.write_text(json.dumps(content, indent=2) + "\n")

    def table(self):
        shown = {**self.times, **self.counts()}
        lines = [f"{name:<24}{'-' if value is None else value:>10}" for name, value in shown.items()]
        lines += [f"BROKEN: {complaint}" for complaint in self.complaints()[:COMPLAINTS_SHOWN_MAX]]
        lines.append("passed" if self.is_good() else "MISSED")
        return "\n".join(lines)
