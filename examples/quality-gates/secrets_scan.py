"""Gate: no tracked file holds a secret.

What is meant to be there is listed in `.secrets-allow` at the root of the repository, one exception a line: a glob
of paths, white space, a regular expression of the line. A line that starts with `#` says why. A finding never shows
the secret itself.
"""

import fnmatch
import re

import gates

ALLOW_FILE = ".secrets-allow"
PATTERNS = {
    "a private key": re.compile(r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----"),
    "an AWS access key": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a GitHub token": re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,})\b"),
    "a GitLab token": re.compile(r"\bglpat-[A-Za-z0-9_-]{20,}"),
    "a Slack token": re.compile(r"\bxox[abposr]-[A-Za-z0-9-]{10,}"),
    "a Google API key": re.compile(r"\bAIza[0-9A-Za-z_-]{35}\b"),
    "a Stripe key": re.compile(r"\b[rs]k_live_[0-9A-Za-z]{20,}\b"),
    "an API key": re.compile(r"\bsk-(?:[a-z]+-)?[A-Za-z0-9_-]{32,}"),
    "a JSON Web Token": re.compile(r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"),
    "an NKEY seed": re.compile(r"\bS[UAOXCN][A-Z2-7]{56}\b"),
    "a password in an address": re.compile(r"\b[a-z][a-z0-9+]*://[^\s:/@\"'`{}$<>]+:[^\s:/@\"'`{}$<>%]{3,}@(?=[A-Za-z0-9\[])"),
    "a secret in a setting": re.compile(
        r"(?i)\b[\w.-]*(?:password|passwd|secret|api_?key|access_?token|auth_?token)[\w-]*[\"']?\s*(?:=|:=|:|=>)\s*"
        r"[\"'](?=[^\"']*[0-9])(?=[^\"']*[A-Za-z])[^\"'\s{}$<>]{12,}[\"']"
    ),
}


def check(repository):
    result = gates.Result("")
    allowed = Allowed(repository)
    names = 0
    for name, text in repository.texts():
        names += 1
        scan(result, allowed, (name, text))
    for name in repository.files:
        if name.rsplit("/", 1)[-1] in {".env", "id_rsa", "id_ed25519", "credentials.json"} and not allowed.has(name, ""):
            result.find(name, "a file of this name holds secrets")
    unused = [entry for entry in allowed.entries if not entry["used"]]
    result.notes.extend(f"{ALLOW_FILE}:{entry['line']} is not needed any more" for entry in unused)
    result.summary = f"{gates.count(names, 'text file')} against {gates.count(PATTERNS, 'pattern')}"
    exceptions = sum(entry["used"] for entry in allowed.entries)
    if exceptions:
        result.summary += f", {gates.count(exceptions, 'place')} allowed by {ALLOW_FILE}"
    return result


def scan(result, allowed, named_text):
    name, text = named_text
    if name == ALLOW_FILE:
        return
    for what, pattern in PATTERNS.items():
        for match in pattern.finditer(text):
            start = text.rfind("\n", 0, match.start()) + 1
            line = text[start:].split("\n", 1)[0]
            if not allowed.has(name, line):
                result.find(f"{name}:{gates.line_of(text, match.start())}", what)


class Allowed:
    """The exceptions of a repository, and how often each was needed."""

    def __init__(self, repository):
        self.entries = []
        text = repository.text(ALLOW_FILE) if ALLOW_FILE in repository.files else ""
        for number, line in enumerate((text or "").splitlines(), start=1):
            glob, _, expression = line.strip().partition(" ")
            if glob and not glob.startswith("#"):
                self.entries.append({"line": number, "glob": glob, "line_of": re.compile(expression.strip()), "used": 0})

    def has(self, name, line):
        for entry in self.entries:
            if fnmatch.fnmatchcase(name, entry["glob"]) and entry["line_of"].search(line):
                entry["used"] += 1
                return True
        return False


if __name__ == "__main__":
    gates.main(check)
