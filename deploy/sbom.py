#!/usr/bin/env python3
"""Prints what is in the binary as a CycloneDX document: every crate that orchestr8-cli is built from, out of Cargo.lock.

    deploy/sbom.py [Cargo.lock]

The same lock file gives the same text: no time, no random number. Crates that only its tests use are listed as well, since Cargo.lock
does not tell them apart.
"""

import json
import pathlib
import sys
import tomllib
import uuid

ROOT = "orchestr8-cli"
# Nothing else names documents by the same rule.
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://orchestr8/sbom")


def reference(package):
    return f"pkg:cargo/{package['name']}@{package['version']}"


class Lock:
    def __init__(self, text):
        self.packages = {(package["name"], package["version"]): package for package in tomllib.loads(text)["package"]}
        self.versions = {}
        for name, version in self.packages:
            self.versions.setdefault(name, []).append(version)

    def needs(self, package):
        """The packages of its dependencies: `name`, or `name version` where there are several."""
        for words in (dependency.split() for dependency in package.get("dependencies", [])):
            yield self.packages[words[0], words[1] if len(words) > 1 else self.versions[words[0]][0]]

    def reachable(self, root):
        found, waiting = {}, [root]
        while waiting:
            package = waiting.pop()
            if reference(package) not in found:
                found[reference(package)] = package
                waiting.extend(self.needs(package))
        return [found[key] for key in sorted(found)]


def component(package):
    described = {"type": "library", "bom-ref": reference(package), "name": package["name"], "version": package["version"], "purl": reference(package)}
    if "checksum" in package:
        described["hashes"] = [{"alg": "SHA-256", "content": package["checksum"]}]
    return described


def main():
    text = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent / "Cargo.lock").read_text()
    lock = Lock(text)
    root = lock.packages[ROOT, lock.versions[ROOT][0]]
    packages = lock.reachable(root)
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(NAMESPACE, text)}",
        "version": 1,
        "metadata": {"component": component(root) | {"type": "application", "name": "orchestr8"}},
        "components": [component(package) for package in packages if package is not root],
        "dependencies": [{"ref": reference(package), "dependsOn": sorted(map(reference, lock.needs(package)))} for package in packages],
    }
    print(json.dumps(document, indent=1))


main()
