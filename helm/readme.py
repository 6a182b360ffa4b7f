#!/usr/bin/env python3
"""Writes the table of values into helm/orchestr8/README.md: descriptions from values.schema.json, defaults from values.yaml.

    helm/readme.py            writes the file
    helm/readme.py --check    exit code 1 if the file is not what it would write
"""

import json
import pathlib
import sys

CHART = pathlib.Path(__file__).parent / "orchestr8"
BEGIN, END = "<!-- values: written by helm/readme.py -->\n", "<!-- end of values -->\n"


def resolved(schema, part):
    """A part of the schema; `$ref` leads to its definition."""
    return schema["$defs"][part["$ref"].rsplit("/", 1)[1]] | part if "$ref" in part else part


def leaves(schema, part, path):
    """Every key that has no keys of its own below it, with its schema."""
    part = resolved(schema, part)
    inner = part.get("properties")
    if not inner:
        yield path, part
        return
    for key, value in inner.items():
        if key != "global":
            yield from leaves(schema, value, f"{path}.{key}" if path else key)


def defaults(text):
    """The text of each value, by its path. Values are written in one line, or as a mapping of two blanks more."""
    found, stack = {}, []
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        depth = (len(line) - len(line.lstrip())) // 2
        key, _, value = line.strip().partition(":")
        stack = stack[:depth] + [key]
        path = ".".join(stack)
        found[path] = value.strip()
        for above in range(1, len(stack)):
            parent = ".".join(stack[:above])
            if found.get(parent) == "":
                found[parent] = "see values.yaml"
    return found


def row(path, part, default):
    cell = f"`{default}`" if default != "see values.yaml" else default
    words = part["description"].replace("|", "\\|")
    if "enum" in part:
        words += f" ({', '.join(f'`{word}`' for word in part['enum'])})"
    return f"| `{path}` | {part['type']} | {cell} | {words} |\n"


def table():
    schema = json.loads((CHART / "values.schema.json").read_text())
    given = defaults((CHART / "values.yaml").read_text())
    rows = [row(path, part, given[path]) for path, part in leaves(schema, schema, "")]
    return "| key | type | default | |\n|---|---|---|---|\n" + "".join(rows)


def main():
    readme = CHART / "README.md"
    before = readme.read_text()
    head, rest = before.split(BEGIN)
    tail = rest.split(END)[1]
    after = head + BEGIN + table() + END + tail
    if sys.argv[1:] == ["--check"]:
        if after != before:
            sys.exit(f"{readme} is not up to date: run helm/readme.py")
        return
    readme.write_text(after)


main()
