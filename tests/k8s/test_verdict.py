"""The verdict finds what it is there to find: `python3 -m unittest discover tests/k8s`."""

import unittest
from types import SimpleNamespace

import verdict
from ledger import Entry

EXECUTION = {"id": "w", "status": "completed", "key": "k", "kind": "quick", "ends": 1}
TASK = {
    "id": "t",
    "workflow": "w",
    "name": "t",
    "agent": "run",
    "status": "completed",
    "error_type": None,
    "error": None,
    "result": "r",
    "results": 1,
    "events": ["task.queued", "task.completed"],
}
END = Entry("end", "t", "r", "executor", "node-1", "quick", 0.0)


def counts(execution=EXECUTION, task=TASK, entries=(END,), book=None, **tables):
    """How often each complaint comes; the defaults are an installation that kept every promise."""
    answers = {
        verdict.EXECUTIONS: [execution] if execution else [],
        verdict.TASKS: [task],
        verdict.INBOX: tables.get("inbox", []),
        verdict.QUARANTINED: [],
        verdict.BROKEN_HISTORIES: [],
    }
    load = SimpleNamespace(accepted=lambda: book or {"k": ["w"]}, refused=[])
    found = verdict.judge(answers.__getitem__, load, list(entries))
    return {kind: len(getattr(found, kind)) for kind in ("lost", "counted_twice", "stuck", "wrong") if getattr(found, kind)}


class Judging(unittest.TestCase):
    def test_kept_promises_are_no_complaint(self):
        self.assertEqual(counts(), {})

    def test_an_unknown_execution_is_lost(self):
        self.assertEqual(counts(execution=None), {"lost": 1})

    def test_what_has_not_ended_is_stuck(self):
        running = {**TASK, "status": "running", "result": None, "results": 0, "events": ["task.queued"]}
        self.assertEqual(counts({**EXECUTION, "status": "running", "ends": 0}, running), {"stuck": 1})
        self.assertEqual(counts(inbox=[{"shard": "0", "event": "{}"}]), {"stuck": 1})

    def test_two_ends_are_counted_twice(self):
        self.assertEqual(counts({**EXECUTION, "ends": 2}), {"counted_twice": 1})
        self.assertEqual(counts(task={**TASK, "events": ["task.queued", "task.completed", "task.completed"]}), {"counted_twice": 1})
        self.assertEqual(counts(task={**TASK, "results": 2}), {"counted_twice": 1})

    def test_a_result_that_no_run_reached_is_counted_twice(self):
        self.assertEqual(counts(entries=[]), {"counted_twice": 1})
        self.assertEqual(counts(task={**TASK, "result": "another"}), {"counted_twice": 1})

    def test_one_key_makes_as_many_executions_as_were_promised(self):
        self.assertEqual(counts(book={"k": []}), {"counted_twice": 1})

    def test_only_what_may_start_once_may_be_lost_with_its_executor(self):
        lost = {**TASK, "status": "failed", "error_type": "lost", "result": None, "results": 0, "events": ["task.queued", "task.failed"]}
        failed = {**EXECUTION, "status": "failed"}
        self.assertEqual(counts(failed, lost), {"wrong": 1})
        self.assertEqual(counts({**failed, "kind": "once"}, lost), {})

    def test_what_may_start_once_starts_once(self):
        starts = [Entry("start", "t", run, "executor", "node-1", "once", 0.0) for run in ("r", "s")]
        self.assertEqual(counts(entries=[END, *starts]), {"wrong": 1})


if __name__ == "__main__":
    unittest.main()
