"""What really ran: every task appends its start and its end to a file on the machine, which no part of the engine touches."""

import threading
import time
from collections import namedtuple

# mark is start or end; `seen_s` is the runner's clock when the line was read.
Entry = namedtuple("Entry", "mark task run executor node kind seen_s")

# Writes the start, works, writes the end, and returns its own run as output.
SCRIPT = """
run=$(cat /proc/sys/kernel/random/uuid)
echo "start $ORCHESTR8_TASK_ID $run $EXECUTOR $NODE $KIND" >> /ledger/lines
[ "$WORK_S" = 0 ] || sleep "$WORK_S"
echo "end $ORCHESTR8_TASK_ID $run $EXECUTOR $NODE $KIND" >> /ledger/lines
printf '"%s"' "$run" > "$ORCHESTR8_OUTPUT"
"""


class Ledger:
    """The file, read as it grows. Safe to be used by several threads."""

    def __init__(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o777)
        self.file = folder / "lines"
        self.file.write_text("")
        self.file.chmod(0o666)
        self.lock = threading.Lock()
        self.read_bytes = 0
        self.seen = []

    def entries(self):
        """Every whole line so far, in the order of the file."""
        with self.lock, open(self.file, "rb") as file:
            file.seek(self.read_bytes)
            text = file.read()
            whole = text[: text.rfind(b"\n") + 1]
            self.read_bytes += len(whole)
            now_s = time.monotonic()
            self.seen += [Entry(*line.split(), now_s) for line in whole.decode().splitlines()]
            return list(self.seen)

    def starts(self, task):
        return [entry for entry in self.entries() if entry.task == task and entry.mark == "start"]

    def ends(self):
        return [entry for entry in self.entries() if entry.mark == "end"]

    def open_on(self, node):
        """The last start of each task that began on that node and has not ended. Without what may start once: killed, it stays open."""
        last = {}
        for entry in self.entries():
            if entry.mark == "start":
                last[entry.task] = entry
            else:
                last.pop(entry.task, None)
        return [entry for entry in last.values() if entry.node == node and entry.kind != "once"]
