"""report: joins what the gates say into one Markdown document; fails if a gate did."""

import importlib
import json
import os
import pathlib
import sys

import gates

# For people: the whole is in the logs of the gate.
FINDINGS_SHOWN_MAX = 8
LANGUAGES_SHOWN_MAX = 6
PASSED = "completed"


def report(values):
    """The document and the names of the gates that failed."""
    inventory = values["inventory"]
    asked = [(gate, found_by(gate, values["repository"])) for gate in values["gates"]]
    failed = [gate["title"] for gate in values["gates"] if gate["status"] != PASSED]
    verdict = f"**{len(failed)} of {len(asked)} gates failed: {', '.join(failed)}**" if failed else f"**All {len(asked)} gates passed.**"
    lines = [f"# Quality gates: {inventory['name']}", "", verdict, "", *inventory_lines(inventory), ""]
    lines += ["| gate | | checked |", "|---|---|---|"]
    lines += [row(gate, result) for gate, result in asked]
    for gate, result in asked:
        lines += details(gate, result)
    return "\n".join(lines) + "\n", failed


def found_by(gate, repository):
    """The output of a gate. A failed task has none, so a failed gate is asked again for what it found."""
    if gate["status"] == PASSED:
        return gate["output"]
    try:
        result = importlib.import_module(gate["name"]).check(gates.Repository(repository))
    except (Exception, SystemExit) as error:  # Whatever broke the gate breaks here again; the report has to be written.
        return {"summary": f"it could not check: {error}", "findings": [], "notes": [], "top": []}
    findings = [vars(finding) for finding in result.findings]
    return {"summary": result.summary, "findings": findings, "notes": result.notes, "top": result.top}


def inventory_lines(inventory):
    changed = f", {gates.count(inventory['changed'], 'changed file')}" if inventory["changed"] else ""
    largest = inventory["languages"][:LANGUAGES_SHOWN_MAX]
    languages = " · ".join(f"{entry['language']} {entry['lines']:,} lines in {gates.count(entry['files'], 'file')}" for entry in largest)
    total = f"{gates.count(inventory['files'], 'file')}, {gates.count(inventory['lines'], 'line')}"
    return [f"Commit {inventory['head']}{changed}: {total}.", "", languages]


def row(gate, result):
    if gate["status"] == PASSED:
        noted = ", with a note" if result["notes"] else ""
        return f"| {title(gate)} | passed in {result['seconds']} s{noted} | {cell(result['summary'])} |"
    return f"| {title(gate)} | **{gate['status']}** | {cell(result['summary'])} |"


def details(gate, result):
    lines = [f"- {cell(text)}" for text in result["top"]]
    lines += [f"- {cell(note)}" for note in result["notes"]]
    shown = result["findings"][:FINDINGS_SHOWN_MAX]
    lines += [f"- `{finding['where']}`: {cell(finding['what'])}" for finding in shown]
    if len(result["findings"]) > len(shown):
        lines.append(f"- and {len(result['findings']) - len(shown):,} more")
    if gate["status"] != PASSED and not result["findings"]:
        lines.append("- asked again, it found nothing: its logs say how it ended")
    return ["", f"## {title(gate)}", "", *lines] if lines else []


def title(gate):
    return gate["title"]


def cell(text):
    return str(text).replace("|", "\\|").replace("\n", " ")


def main():
    values = json.loads(pathlib.Path(os.environ["ORCHESTR8_INPUT"]).read_text(encoding="utf-8"))
    document, failed = report(values)
    if failed:
        print(document)
        sys.exit(f"failed gates: {', '.join(failed)}")
    gates.write_output(document)


if __name__ == "__main__":
    main()
