"""What all gates share: the files of a repository, findings, and how a gate ends.

A gate is a module with `check(repository: Repository) -> Result`. Run as a task it writes its result to
$ORCHESTR8_OUTPUT when nothing was found, else it tells what it found on stderr and exits with 1.
"""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import time

# A larger file is data, not text that somebody reads.
TEXT_BYTES_MAX = 4 * 1024 * 1024
# Findings on stderr, which is shown when the workflow ends; stdout has more, for the logs.
FINDINGS_TOLD_MAX = 5
FINDINGS_LOGGED_MAX = 500
# Folders with other people's code.
VENDORED = {"vendor", "node_modules", "third_party"}


@dataclasses.dataclass
class Finding:
    """One thing that breaks a rule: `where` is a path with a line, `what` says what is wrong there."""

    where: str
    what: str


@dataclasses.dataclass
class Result:
    """`summary` says what was checked; `notes` say what was not."""

    summary: str
    findings: list[Finding] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    # Rows of text for the report, the worst first.
    top: list[str] = dataclasses.field(default_factory=list)

    def find(self, where, what):
        self.findings.append(Finding(where, what))


class Repository:
    """A git work tree: every file that is tracked or would be with `git add .`, links and vendored code left out."""

    def __init__(self, folder):
        self.root = pathlib.Path(folder)
        if not self.root.is_absolute() or not self.root.is_dir():
            sys.exit(f"input.repository: `{folder}` is not an absolute path of a directory that this user can enter")
        listed = self.git("ls-files", "-z", "--cached", "--others", "--exclude-standard")
        names = sorted(set(filter(None, listed.split("\0"))))
        self.files = [name for name in names if not VENDORED.intersection(name.split("/")) and self._is_plain(name)]
        self._texts = {}

    def git(self, *words):
        # A repository's own configuration may name programs to run; listing files needs none of them.
        command = ["git", "-c", "core.fsmonitor=false", "-C", str(self.root), *words]
        try:
            done = subprocess.run(command, capture_output=True, check=False)
        except FileNotFoundError:
            sys.exit("git is not on the PATH of the executor: install it, or start `orchestr8 dev` where it is")
        if done.returncode != 0:
            sys.exit(f"`{self.root}`: git {words[0]}: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout.decode(errors="surrogateescape")

    def text(self, name):
        """The text of a file; None for a binary or a very large one."""
        if name not in self._texts:
            self._texts[name] = self._read(name)
        return self._texts[name]

    def texts(self, *suffixes):
        """Pairs of name and text of all text files, or of those with one of the suffixes."""
        for name in self.files:
            if not suffixes or name.endswith(suffixes):
                text = self.text(name)
                if text is not None:
                    yield name, text

    def _is_plain(self, name):
        path = self.root / name
        return path.is_file() and not path.is_symlink()

    def _read(self, name):
        path = self.root / name
        if path.stat().st_size > TEXT_BYTES_MAX:
            return None
        content = path.read_bytes()
        if b"\0" in content[:8192]:
            return None
        return content.decode("utf-8", errors="surrogateescape")


def line_of(text, offset):
    """The number of the line, from 1."""
    return text.count("\n", 0, offset) + 1


def main(check):
    """Runs a gate as a task."""
    started = time.monotonic()
    result = check(Repository(os.environ.get("WITH_REPOSITORY") or os.getcwd()))
    if result.findings:
        tell(result)
        sys.exit(1)
    result_json = dataclasses.asdict(result) | {"seconds": round(time.monotonic() - started, 2)}
    write_output(result_json)


def tell(result):
    """All findings on stdout, the first on stderr, whose last line becomes the error of the task."""
    for number, finding in enumerate(result.findings[:FINDINGS_LOGGED_MAX]):
        print(f"{finding.where}: {finding.what}")
        if number < FINDINGS_TOLD_MAX:
            print(f"{finding.where}: {finding.what}", file=sys.stderr)
    first = result.findings[0]
    print(f"{count(result.findings, 'finding')}, the first: {first.where}: {first.what}", file=sys.stderr)


def write_output(value):
    """Gives the value to the workflow; outside of one it goes to stdout."""
    text = json.dumps(value)
    if "ORCHESTR8_OUTPUT" in os.environ:
        pathlib.Path(os.environ["ORCHESTR8_OUTPUT"]).write_text(text, encoding="utf-8")
    else:
        print(text)


def count(items, noun):
    """`3 files`, `1 file`."""
    number = items if isinstance(items, int) else len(items)
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
