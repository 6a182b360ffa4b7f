"""Gate: every text file is tidy, and the formatters of its languages have nothing to change."""

import os
import re
import subprocess

import gates

# Here white space means something, or the file is somebody else's output.
UNTIDY_ALLOWED = (".patch", ".diff", ".snap", ".svg", ".csv", ".tsv")
CRLF_ALLOWED = (".bat", ".cmd", ".ps1", ".sln")
TRAILING = re.compile(r"[ \t]+$")
CONFLICT = re.compile(r"^(<{7} |>{7} )")
# A formatter that takes longer hangs.
FORMATTER_SECONDS_MAX = 120


def check(repository):
    result = gates.Result("")
    texts = [(name, text) for name, text in repository.texts() if not name.endswith(UNTIDY_ALLOWED)]
    for name, text in texts:
        tidy(result, name, text)
    formatters = [tool for tool in (rustfmt(result, repository), gofmt(result, repository)) if tool]
    told = "".join(f", {tool}" for tool in formatters)
    result.summary = f"{gates.count(texts, 'text file')}: line ends, trailing space, tabs, merge marks{told}"
    return result


def tidy(result, name, text):
    if not text:
        return
    if "\r\n" in text and not name.endswith(CRLF_ALLOWED):
        result.find(name, "lines end with CR LF")
        return
    if not text.endswith("\n"):
        result.find(f"{name}:{gates.line_of(text, len(text))}", "the last line has no end")
    elif text.endswith("\n\n"):
        result.find(f"{name}:{gates.line_of(text, len(text)) - 1}", "the file ends with an empty line")
    for number, line in enumerate(text.split("\n"), start=1):
        if CONFLICT.match(line):
            result.find(f"{name}:{number}", "a merge conflict is left")
        # Two spaces at the end are a line break in Markdown.
        elif TRAILING.search(line) and not (name.endswith(".md") and re.search(r"\S  $", line)):
            result.find(f"{name}:{number}", "trailing space")
        elif name.endswith((".rs", ".py", ".yaml", ".yml")) and line.startswith("\t"):
            result.find(f"{name}:{number}", "indented with a tab")


def rustfmt(result, repository):
    if not (repository.root / "Cargo.toml").is_file():
        return None
    listed = run(result, repository, ["cargo", "fmt", "--all", "--", "--check", "-l"], ".rs files")
    if listed is None:
        return None
    for path in sorted(set(listed)):
        result.find(os.path.relpath(path, repository.root.resolve()), "`cargo fmt` changes it")
    return "cargo fmt"


def gofmt(result, repository):
    names = [name for name in repository.files if name.endswith(".go")]
    if not names:
        return None
    listed = run(result, repository, ["gofmt", "-l", *names], ".go files")
    if listed is None:
        return None
    for name in listed:
        result.find(name, "`gofmt` changes it")
    return "gofmt"


def run(result, repository, command, what):
    """The lines that the formatter lists; None, with a note, where it cannot run."""
    shown = " ".join(command[:2])
    try:
        done = subprocess.run(
            command, cwd=repository.root, capture_output=True, text=True, timeout=FORMATTER_SECONDS_MAX, check=False
        )
    except OSError as error:
        result.notes.append(f"{what} were not checked by `{shown}`: {error.strerror}")
        return None
    except subprocess.TimeoutExpired:
        result.find(shown, f"no end within {FORMATTER_SECONDS_MAX} s")
        return None
    listed = [line for line in done.stdout.splitlines() if line.startswith("/") or line.endswith(".go")]
    words = done.stderr.strip().splitlines()
    if done.returncode == 0 or listed:
        return listed
    reason = words[0] if words else f"exit code {done.returncode}"
    if is_missing(done.stderr):
        result.notes.append(f"{what} were not checked by `{shown}`, which this user cannot run: {reason}")
    else:
        result.find(shown, reason)
    return None


def is_missing(stderr):
    """Whether the formatter is not installed, or not for this user: no fault of the repository."""
    signs = ("rustup could not", "is not installed", "no such command", "could not be found", "Permission denied", "not find rustfmt")
    return any(sign in stderr for sign in signs)


if __name__ == "__main__":
    gates.main(check)
