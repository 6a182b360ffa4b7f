"""Gate: what manifests ask for and what lock files hold are the same thing. Needs no package manager and no network.

Cargo: every member of the workspace is locked with its version, its declared dependencies are the locked ones and
satisfy their requirements, every package has a checksum, nothing is locked without need. npm: `package-lock.json`
repeats what `package.json` asks for. Go: every module required in `go.mod` is in `go.sum`.
"""

import json
import posixpath
import re

import cargo_lock
import gates


def check(repository):
    result = gates.Result("")
    checked = [
        *(cargo_lock.check_lock(result, repository, name) for name in named(repository, "Cargo.lock")),
        *(check_npm(result, repository, name) for name in named(repository, "package-lock.json")),
        *(check_go(result, repository, name) for name in named(repository, "go.mod")),
    ]
    for manifest, locks in {"Cargo.toml": ["Cargo.lock"], "package.json": ["package-lock.json", "yarn.lock", "pnpm-lock.yaml"]}.items():
        if manifest in repository.files and not any(lock in repository.files for lock in locks):
            result.notes.append(f"{manifest}: there is no {' or '.join(locks)} beside it")
    result.summary = ", ".join(told for told in checked if told) or "no lock file that this gate knows"
    return result


def named(repository, name):
    return [path for path in repository.files if posixpath.basename(path) == name]


def check_npm(result, repository, lock_name):
    manifest_name = posixpath.join(posixpath.dirname(lock_name), "package.json")
    lock = read_json(result, repository, lock_name)
    manifest = read_json(result, repository, manifest_name)
    if lock is None or manifest is None:
        return None
    if "packages" not in lock:
        result.notes.append(f"{lock_name}: lockfileVersion {lock.get('lockfileVersion')} is not read, 2 and 3 are")
        return None
    locked = lock["packages"].get("", {})
    for kind in ("dependencies", "devDependencies", "optionalDependencies"):
        asked, held = manifest.get(kind, {}), locked.get(kind, {})
        for package in sorted(set(asked) | set(held)):
            if asked.get(package) != held.get(package):
                result.find(manifest_name, f"{kind}: {package} {asked.get(package, 'absent')}, but locked {held.get(package, 'absent')}")
            elif f"node_modules/{package}" not in lock["packages"]:
                result.find(lock_name, f"{package} is asked for, but not locked")
    return f"{lock_name}: {gates.count(len(lock['packages']), 'package')}"


def read_json(result, repository, name):
    if name not in repository.files:
        result.find(name, "it is missing")
        return None
    try:
        return json.loads(repository.text(name) or "")
    except ValueError as error:
        result.find(name, f"it is not JSON: {error}")
        return None


def check_go(result, repository, manifest_name):
    sums_name = posixpath.join(posixpath.dirname(manifest_name), "go.sum")
    text = re.sub(r"//.*", "", repository.text(manifest_name) or "")
    blocks = re.findall(r"^require\s*\((.*?)^\)", text, re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks + re.findall(r"^require\s+([^(\s].*)$", text, re.MULTILINE))
    required = re.findall(r"(\S+)\s+(v\S+)", lines)
    replaced = set(re.findall(r"(\S+)(?:\s+v\S+)?\s+=>", text))
    sums = (repository.text(sums_name) or "") if sums_name in repository.files else ""
    held = {tuple(line.split()[:2]) for line in sums.splitlines()}
    for module, version in required:
        if module not in replaced and (module, version) not in held and (module, f"{version}/go.mod") not in held:
            result.find(manifest_name, f"{module} {version} is required, but not in {sums_name}")
    return f"{manifest_name}: {gates.count(required, 'module')}"


if __name__ == "__main__":
    gates.main(check)
