"""Work for the cluster through the public API, each submission under an idempotency key, and the book of what was promised."""

import http.client
import json
import random
import threading
import time
import uuid

from ledger import SCRIPT
from machine import Broken

ANSWER_PATIENCE_S = 10
# Longer than any step leaves the API without a coordinator.
SUBMIT_PATIENCE_S = 180
SUBMIT_INTERVAL_S = 0.7
QUEUE = "default"
# What is submitted, and how long a task of it works.
MIX = ("quick", "quick", "chain", "batch", "long", "long", "once")
BATCH = 5


class Api:
    """The coordinators' service, as a program in the cluster's network sees it."""

    def __init__(self, address, token):
        self.address = address
        self.token = token

    def call(self, method, path, body=None, key=None):
        """Status and JSON of one request; OSError where nobody answers."""
        headers = {"authorization": f"Bearer {self.token}", "content-type": "application/json"}
        if key:
            headers["idempotency-key"] = key
        connection = http.client.HTTPConnection(self.address, timeout=ANSWER_PATIENCE_S)
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"null")
        except (http.client.HTTPException, ValueError) as error:
            raise OSError(f"{method} {path}: {error!r}") from error
        finally:
            connection.close()

    def submit(self, path, body, key):
        """Posts under its key until it is accepted; a refusal is Broken."""
        until = time.monotonic() + SUBMIT_PATIENCE_S
        while True:
            try:
                status, answer = self.call("POST", path, body, key)
                if status == 202:
                    return answer
                if 400 <= status < 500:
                    raise Broken(f"{path} was refused for good: {status}: {answer}")
                last = f"{status}: {answer}"
            except OSError as error:
                last = str(error)
            if time.monotonic() > until:
                raise Broken(f"nobody accepted {path} within {SUBMIT_PATIENCE_S} s; the last answer: {last}")
            time.sleep(0.2)


class Load:
    """Submits steadily from `begin` to `end`; `submit` adds one by hand."""

    def __init__(self, api, seed):
        self.api = api
        self.draws = random.Random(seed)
        self.lock = threading.Lock()
        # By key: the ids of its executions. What was never answered is in `refused`.
        self.book = {}
        self.refused = []
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._run, name="load", daemon=True)

    def begin(self):
        self.thread.start()

    def end(self):
        """No more submissions; waits for the answer of the last one."""
        self.ended.set()
        if self.thread.is_alive():
            self.thread.join(SUBMIT_PATIENCE_S + ANSWER_PATIENCE_S)

    def submit(self, kind, work_s=None):
        """One submission; the ids of its tasks."""
        key = str(uuid.uuid4())
        path, body = submission(kind, self.draws.uniform(4, 12) if work_s is None else work_s, key)
        try:
            answer = self.api.submit(path, body, key)
        except Broken as error:
            with self.lock:
                self.refused.append(f"{kind} {key}: {error}")
            raise
        each = answer if isinstance(answer, list) else [answer]
        with self.lock:
            self.book[key] = [one["workflow_id"] for one in each]
        return [one["task_id"] for one in each if "task_id" in one]

    def accepted(self):
        """Ids of all executions by key."""
        with self.lock:
            return dict(self.book)

    def _run(self):
        while not self.ended.wait(SUBMIT_INTERVAL_S):
            try:
                self.submit(self.draws.choice(MIX))
            except Broken:
                continue  # It is in `refused`, which the verdict reports.


def submission(kind, work_s, key):
    """Path and body; the key travels in the metadata as well, so that the database can be asked for it."""
    quick, metadata = task(kind, 0), {"key": key, "kind": kind}
    if kind == "batch":
        return "/api/v1/tasks", [{**quick, "metadata": metadata} for _ in range(BATCH)]
    if kind == "long":
        return "/api/v1/tasks", {**task(kind, work_s), "metadata": metadata}
    if kind == "once":
        return "/api/v1/tasks", {**task(kind, work_s / 4), "at_most_once": True, "metadata": metadata}
    if kind == "chain":
        tasks = [{**quick, "name": name, "needs": needs} for name, needs in (("a", []), ("b", ["a"]), ("c", ["b"]))]
        return "/api/v1/workflows", {"definition": {"name": "chain", "tasks": tasks}, "metadata": metadata}
    return "/api/v1/tasks", {**quick, "metadata": metadata}


def task(kind, work_s):
    work = f"{work_s:.1f}" if work_s else "0"
    return {"run": SCRIPT, "queue": QUEUE, "env": {"KIND": kind, "WORK_S": work}}
