"""Cargo.toml against Cargo.lock, as Cargo compares them before it builds with `--locked`."""

import fnmatch
import posixpath
import re

import gates

try:
    import tomllib
except ImportError:  # Before Python 3.11, pip brings its own.
    try:
        from pip._vendor import tomli as tomllib
    except ImportError:
        tomllib = None

KINDS = ("dependencies", "dev-dependencies", "build-dependencies")


def check_lock(result, repository, lock_name):
    """Checks one lock file with the workspace beside it; says what was compared."""
    if tomllib is None:
        result.notes.append(f"{lock_name}: this Python reads no TOML: use 3.11 or newer, or install pip")
        return None
    folder = posixpath.dirname(lock_name)
    lock = read(result, repository, lock_name)
    root = read(result, repository, posixpath.join(folder, "Cargo.toml"))
    if lock is None or root is None:
        return None
    packages = lock.get("package", [])
    workspace = Workspace(result, repository, (folder, root))
    for manifest_name, manifest in workspace.members.items():
        check_member(result, workspace, (manifest_name, manifest, packages))
    check_packages(result, lock_name, packages)
    known = {workspace.package(manifest)["name"] for manifest in workspace.members.values()}
    for package in packages:
        if "source" not in package and package["name"] not in known | workspace.path_packages:
            result.find(lock_name, f"{package['name']} {package['version']} is locked as a member, but is none")
    workspace.note_unused()
    members = gates.count(len(workspace.members), "member")
    return f"{lock_name}: {members}, {gates.count(workspace.requirements, 'requirement')}, {gates.count(packages, 'locked package')}"


def read(result, repository, name):
    if name not in repository.files:
        result.find(name, "it is missing or not tracked")
        return None
    try:
        return tomllib.loads(repository.text(name) or "")
    except tomllib.TOMLDecodeError as error:
        result.find(name, f"it is not TOML: {error}")
        return None


class Workspace:
    """The members of a workspace, and what they inherit from it."""

    def __init__(self, result, repository, folder_and_root):
        self.folder, self.root = folder_and_root
        self.result = result
        self.shared = self.root.get("workspace", {})
        self.inherited = set()
        self.path_packages = set()
        self.requirements = 0
        self.members = {}
        for name in repository.files:
            if posixpath.basename(name) == "Cargo.toml" and self.has_member(posixpath.relpath(posixpath.dirname(name) or ".", self.folder or ".")):
                manifest = read(result, repository, name)
                if manifest and "package" in manifest:
                    self.members[name] = manifest

    def has_member(self, folder):
        if folder == ".":
            return True
        excluded = any(folder == name or folder.startswith(f"{name}/") for name in self.shared.get("exclude", []))
        return not excluded and any(fnmatch.fnmatchcase(folder, glob.rstrip("/")) for glob in self.shared.get("members", []))

    def package(self, manifest):
        """Name and version, the version inherited where it says so."""
        package = manifest["package"]
        version = package.get("version", "0.0.0")
        if isinstance(version, dict):
            version = self.shared.get("package", {}).get("version", "0.0.0")
        return {"name": package["name"], "version": version}

    def dependencies(self, manifest_name, manifest):
        """Declared dependencies of all kinds and targets: real name to its requirement, or None for any version."""
        tables = [manifest, *manifest.get("target", {}).values()]
        declared = {}
        for key, value in [item for table in tables for kind in KINDS for item in table.get(kind, {}).items()]:
            self.requirements += 1
            spec = {"version": value} if isinstance(value, str) else value
            if spec.get("workspace"):
                self.inherited.add(key)
                if key not in self.shared.get("dependencies", {}):
                    self.result.find(manifest_name, f"{key} is inherited, but the workspace does not have it")
                    continue
                shared = self.shared["dependencies"][key]
                spec = {"version": shared} if isinstance(shared, str) else shared
            name = spec.get("package", key)
            if "path" in spec:
                self.path_packages.add(name)
            declared.setdefault(name, []).append(spec.get("version"))
        return declared

    def note_unused(self):
        for name in sorted(set(self.shared.get("dependencies", {})) - self.inherited):
            where = posixpath.join(self.folder, "Cargo.toml")
            self.result.find(where, f"{name} is among the dependencies of the workspace, but no member uses it")


def check_member(result, workspace, member):
    manifest_name, manifest, packages = member
    package = workspace.package(manifest)
    own = [entry for entry in packages if entry["name"] == package["name"] and "source" not in entry]
    declared = workspace.dependencies(manifest_name, manifest)
    if not own:
        result.find(manifest_name, f"{package['name']} is not locked: run `cargo update --workspace`")
        return
    if own[0]["version"] != package["version"]:
        result.find(manifest_name, f"version {package['version']}, but locked {own[0]['version']}")
    locked = {}
    for reference in own[0].get("dependencies", []):
        name, _, version = reference.partition(" ")
        versions = [version.split(" ")[0]] if version else [entry["version"] for entry in packages if entry["name"] == name]
        locked.setdefault(name, []).extend(versions)
    for name, requirements in sorted(declared.items()):
        if name not in locked and name != package["name"]:
            result.find(manifest_name, f"{name} is declared, but not locked")
            continue
        for requirement in filter(None, requirements):
            if not any(satisfies(version, requirement) for version in locked.get(name, [])):
                result.find(manifest_name, f"{name} = \"{requirement}\", but locked {', '.join(locked.get(name, []))}")
    for name in sorted(set(locked) - set(declared)):
        result.find(manifest_name, f"{name} is locked for it, but not declared")


def check_packages(result, lock_name, packages):
    """Checksums, references that resolve, and packages that nobody reaches."""
    by_name = {}
    for package in packages:
        by_name.setdefault(package["name"], []).append(package)
        if package.get("source", "").startswith(("registry+", "sparse+")) and "checksum" not in package:
            result.find(lock_name, f"{package['name']} {package['version']} has no checksum")
    reached, open_ones = set(), [package for package in packages if "source" not in package]
    while open_ones:
        package = open_ones.pop()
        identity = (package["name"], package["version"], package.get("source"))
        if identity in reached:
            continue
        reached.add(identity)
        for reference in package.get("dependencies", []):
            name, _, version = reference.partition(" ")
            version = version.split(" ")[0]
            found = [other for other in by_name.get(name, []) if not version or other["version"] == version]
            if not found:
                result.find(lock_name, f"{package['name']} needs {reference}, which is not locked")
            open_ones += found
    for package in packages:
        if (package["name"], package["version"], package.get("source")) not in reached:
            result.find(lock_name, f"{package['name']} {package['version']} is locked, but nobody needs it")


def satisfies(version, requirement):
    """Whether a version meets a requirement such as `1.2`, `~1`, `>=1, <3` or `1.*`."""
    return all(satisfies_one(numbers(version), comparator.strip()) for comparator in requirement.split(","))


def satisfies_one(version, comparator):
    sign, wanted_text = re.match(r"(\^|~|=|>=|<=|>|<|)\s*(.*)", comparator).groups()
    wanted = numbers(wanted_text)
    if not wanted:
        return True
    low = (wanted + [0, 0, 0])[:3]
    if sign == ">=":
        return version >= low
    if sign == "<=":
        return version[: len(wanted)] <= wanted
    if sign == ">":
        return version[: len(wanted)] > wanted
    if sign == "<":
        return version < low
    if sign == "=" or "*" in wanted_text:
        return version[: len(wanted)] == wanted
    # `~1.2.3` keeps major and minor; the caret everything up to the first number that is not zero.
    fixed = min(len(wanted), 2) if sign == "~" else next((place for place, number in enumerate(wanted, 1) if number), len(wanted))
    return version >= low and version[:fixed] == wanted[:fixed]


def numbers(text):
    """The leading numbers of a version; what comes before a release counts as the release."""
    found = []
    for part in re.split(r"[-+]", text.strip())[0].split("."):
        if not part.isdigit():
            break
        found.append(int(part))
    return found


if __name__ == "__main__":
    assert satisfies("1.5.0", "1.2") and not satisfies("2.0.0", "1.2") and satisfies("0.3.9", "0.3") and not satisfies("0.4.0", "0.3")
