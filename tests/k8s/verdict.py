"""What the API and the database say at the end, compared with what really ran."""

import json
from collections import Counter

FINAL = ("completed", "failed", "skipped", "cancelled")
ENDS = ("task.completed", "task.failed", "task.skipped", "task.cancelled")

EXECUTIONS = """select w.id::text as id, w.status, w.metadata ->> 'key' as key, w.metadata ->> 'kind' as kind,
(select count(*) from workflow_events e cross join lateral jsonb_array_elements(e.events) x where e.workflow_id = w.id
  and x ->> 'type' in ('workflow.completed', 'workflow.failed', 'workflow.cancelled')) as ends
from workflow_executions w where w.metadata ? 'key'"""
TASKS = """select t.id::text as id, t.workflow_id::text as workflow, t.task_name as name, t.agent_name as agent, t.status, t.error_type,
t.error, t.result, (select count(*) from task_results r where r.task_execution_id = t.id) as results,
coalesce((select json_agg(x ->> 'type') from workflow_events e cross join lateral jsonb_array_elements(e.events) x
  where e.workflow_id = t.workflow_id and x ->> 'task_id' = t.id::text), '[]') as events
from task_executions t join workflow_executions w on w.id = t.workflow_id where w.metadata ? 'key'"""
INBOX = "select shard::text as shard, event::text as event from shard_inbox"
QUARANTINED = "select error, event::text as event from quarantined_events"
BROKEN_HISTORIES = """select w.id::text as id from workflow_executions w where w.event_sequence <>
(select coalesce(sum(jsonb_array_length(e.events)), 0) from workflow_events e where e.workflow_id = w.id)"""


class Verdict:
    """Counts with their complaints. `wrong` is what no fault of this run explains."""

    def __init__(self):
        self.accepted = self.ended = 0
        self.lost, self.counted_twice, self.stuck, self.wrong = [], [], [], []

    def complaints(self):
        kinds = {"lost": self.lost, "counted twice": self.counted_twice, "stuck": self.stuck, "wrong": self.wrong}
        return [f"{kind}: {what}" for kind, all_of_them in kinds.items() for what in all_of_them]


def open_executions(database, book):
    """Accepted executions that have not ended, by status; those that are unknown are not waited for."""
    status = {row["id"]: row["status"] for row in database(EXECUTIONS)}
    accepted = [execution for executions in book.values() for execution in executions]
    return Counter(status[one] for one in accepted if one in status and status[one] not in FINAL)


def judge(database, load, entries):
    """The verdict. `database` runs a query and returns its rows as dictionaries."""
    verdict = Verdict()
    executions = {row["id"]: row for row in database(EXECUTIONS)}
    tasks = database(TASKS)
    promises(load.accepted(), executions, tasks, verdict)
    keys(load.accepted(), executions, verdict)
    finished = {(entry.task, entry.run) for entry in entries if entry.mark == "end"}
    for task in tasks:
        once(task, finished, verdict)
    starts = Counter(entry.task for entry in entries if entry.mark == "start" and entry.kind == "once")
    verdict.wrong += [f"task {task} may start once and started {count} times" for task, count in starts.items() if count > 1]
    verdict.wrong += load.refused
    verdict.stuck += [f"in the inbox: {row}" for row in database(INBOX)]
    verdict.wrong += [f"quarantined: {row}" for row in database(QUARANTINED)]
    verdict.wrong += [f"the history of {row['id']} has gaps" for row in database(BROKEN_HISTORIES)]
    return verdict


def promises(book, executions, tasks, verdict):
    """Every accepted execution is there and has ended as it should."""
    failed = {task["workflow"]: task for task in tasks if task["status"] == "failed"}
    for key, accepted in book.items():
        for execution in accepted:
            verdict.accepted += 1
            row = executions.get(execution)
            if row is None:
                verdict.lost.append(f"execution {execution} (key {key}) is unknown")
            elif row["status"] not in FINAL:
                verdict.stuck.append(f"execution {execution} is {row['status']}")
            else:
                verdict.ended += 1
                if row["status"] != "completed" and not is_explained(row, failed.get(execution)):
                    verdict.wrong.append(f"execution {execution} is {row['status']}: {failed.get(execution)}")


def is_explained(execution, failed):
    """What must not start twice fails with the executor that ran it; nothing else fails."""
    return execution["kind"] == "once" and failed is not None and failed["error_type"] == "lost"


def keys(book, executions, verdict):
    """As many executions of a key as were promised, and one end each."""
    made = Counter(row["key"] for row in executions.values())
    for key, accepted in book.items():
        if made[key] > len(accepted):
            verdict.counted_twice.append(f"key {key} made {made[key]} executions")
    verdict.counted_twice += [f"execution {row['id']} ended {row['ends']} times" for row in executions.values() if row["ends"] > 1]


def once(task, finished, verdict):
    """One end, one successor for each end of a run, and a result that is one of the ledger's ends."""
    count = Counter(task["events"])
    ends = sum(count[kind] for kind in ENDS)
    if ends > 1 or task["results"] > 1:
        verdict.counted_twice.append(f"{ends} ends and {task['results']} results: {task}")
    if count["task.queued"] > 1 + count["task.retrying"] + count["task.lost"] + count["task.released"]:
        verdict.counted_twice.append(f"queued more often than anything asked for: {task}")
    ran = task["status"] == "completed" and task["agent"] == "run"
    if ran and (task["id"], task["result"]) not in finished:
        verdict.counted_twice.append(f"no run with this result reached its end: {task}")


def rows(text):
    """What psql printed: one JSON a line."""
    return [json.loads(line) for line in text.splitlines() if line.strip()]
