"""Gate: relative links in Markdown lead somewhere, and code paths that it names exist. Nothing is asked of the network."""

import posixpath
import re
import urllib.parse

import gates

FENCE = re.compile(r"^ {0,3}(```+|~~~+).*?^ {0,3}\1[`~]*[ \t]*$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
INLINE = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^)\s>]+)>?(?:\s+[\"'(][^)]*)?\s*\)")
REFERENCE = re.compile(r"^ {0,3}\[[^\]^][^\]]*\]:\s*<?(\S+?)>?(?:\s|$)", re.MULTILINE)
HTML = re.compile(r"<(?:a|img)\b[^>]*?\b(?:href|src)=[\"']([^\"']+)[\"']", re.IGNORECASE)
HEADING = re.compile(r"^ {0,3}#{1,6}[ \t]+(.*?)[ \t]*#*[ \t]*$", re.MULTILINE)
HTML_ANCHOR = re.compile(r"<[a-z]+\b[^>]*?\b(?:id|name)=[\"']([^\"']+)[\"']", re.IGNORECASE)
# `folder/file.rs`, also with a line (`:12`) or an item (`:name`, `#name`) behind it.
CODE_PATH = re.compile(r"^\.?/?([\w.@-]+(?:/[\w.@-]+)+/?)(?:[:#][\w:.-]+)?$")


def check(repository):
    result = gates.Result("")
    tree = Tree(repository)
    documents = list(repository.texts(".md"))
    links = paths = 0
    for name, text in documents:
        text = blank(FENCE, text)
        for target, offset in targets(blank(CODE, text)):
            links += 1
            problem = tree.problem(name, target)
            if problem:
                result.find(f"{name}:{gates.line_of(text, offset)}", f"the link `{target}` {problem}")
        for match in CODE.finditer(text):
            named = CODE_PATH.match(match.group(2).strip())
            if named and named.group(1).split("/")[0] in tree.top_folders:
                paths += 1
                if not tree.has(named.group(1).rstrip("/")):
                    result.find(f"{name}:{gates.line_of(text, match.start())}", f"names `{named.group(1)}`, which does not exist")
    result.summary = (
        f"{gates.count(links, 'relative link')} and {gates.count(paths, 'code path')} in {gates.count(documents, 'document')}"
    )
    return result


def targets(text):
    """Relative link targets with their offsets."""
    for pattern in (INLINE, REFERENCE, HTML):
        for match in pattern.finditer(text):
            target = match.group(1)
            if not re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*:|//", target):
                yield target, match.start()


def blank(pattern, text):
    """The text with every match made of spaces, so that offsets stay."""
    return pattern.sub(lambda match: re.sub(r"[^\n]", " ", match.group(0)), text)


class Tree:
    """Files and folders of the repository, and the anchors of its documents."""

    def __init__(self, repository):
        self.repository = repository
        self.files = set(repository.files)
        self.folders = {""}
        for name in repository.files:
            parts = name.split("/")[:-1]
            self.folders.update("/".join(parts[:depth]) for depth in range(1, len(parts) + 1))
        self.top_folders = {folder.split("/")[0] for folder in self.folders if folder}
        self.anchors = {}

    def has(self, path):
        return path in self.files or path in self.folders

    def problem(self, document, target):
        """What is wrong with a link; None if nothing is."""
        path, _, fragment = target.partition("#")
        path = urllib.parse.unquote(path.split("?")[0])
        if not path:
            goal = document
        elif path.startswith("/"):
            goal = posixpath.normpath(path.lstrip("/"))
        else:
            goal = posixpath.normpath(posixpath.join(posixpath.dirname(document), path))
        goal = "" if goal == "." else goal
        if goal.startswith(".."):
            return "leaves the repository"
        if not self.has(goal):
            return "leads nowhere" if not (self.repository.root / goal).exists() else "leads to a file that is not tracked"
        if fragment and goal.endswith(".md") and urllib.parse.unquote(fragment).lower() not in self.anchors_of(goal):
            return f"names a heading that `{goal}` does not have"
        return None

    def anchors_of(self, document):
        if document not in self.anchors:
            text = blank(FENCE, self.repository.text(document) or "")
            found = {anchor.lower() for anchor in HTML_ANCHOR.findall(text)}
            for heading in HEADING.findall(text):
                found.add(unused(slug(heading), found))
            self.anchors[document] = found
        return self.anchors[document]


def slug(heading):
    """The anchor of a heading, as code hosts make it."""
    heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def unused(anchor, taken):
    number, free = 0, anchor
    while free in taken:
        number += 1
        free = f"{anchor}-{number}"
    return free


if __name__ == "__main__":
    gates.main(check)
