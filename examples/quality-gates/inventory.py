"""collect: what is in the repository, by language."""

import collections

import gates

LANGUAGES = {
    "Rust": (".rs",),
    "SQL": (".sql",),
    "Protocol Buffers": (".proto",),
    "Python": (".py",),
    "Shell": (".sh", ".ci/run"),
    "Make": ("Makefile",),
    "Go": (".go",),
    "TypeScript": (".ts", ".tsx"),
    "JavaScript": (".js", ".mjs", ".jsx"),
    "Java": (".java",),
    "C and C++": (".c", ".h", ".cc", ".cpp", ".hpp"),
    "Markdown": (".md",),
    "YAML": (".yaml", ".yml"),
    "TOML": (".toml",),
    "JSON": (".json",),
    "Lock files": (".lock", "go.sum"),
}


def language_of(name):
    found = (language for language, endings in LANGUAGES.items() if name.endswith(endings))
    return next(found, "other")


def inventory(repository):
    files, lines = collections.Counter(), collections.Counter()
    for name in repository.files:
        language = language_of(name)
        files[language] += 1
        lines[language] += len((repository.text(name) or "").splitlines())
    languages = [{"language": name, "files": files[name], "lines": number} for name, number in lines.most_common()]
    commits = repository.git("rev-list", "--all", "--count").strip()
    head = repository.git("rev-parse", "--short", "HEAD").strip() if commits != "0" else "no commit yet"
    changed = repository.git("status", "--porcelain").splitlines()
    return {
        "name": repository.root.name,
        "head": head,
        "changed": len(changed),
        "files": len(repository.files),
        "lines": sum(lines.values()),
        "languages": languages,
    }


if __name__ == "__main__":
    import os

    gates.write_output(inventory(gates.Repository(os.environ.get("WITH_REPOSITORY") or os.getcwd())))
