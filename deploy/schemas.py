#!/usr/bin/env python3
"""Writes JSON schemas for kubeconform: VERSION/KIND.json of Kubernetes, and custom/KIND-GROUP-VERSION.json from CustomResourceDefinitions.

    deploy/schemas.py WHEELS TARGET FOLDER_OF_DEFINITIONS...
"""

import json
import pathlib
import sys

from ruamel.yaml import YAML

# The versions that the chart supports, see `kubeVersion` in its Chart.yaml.
VERSIONS = [f"1.{minor}" for minor in range(29, 37)]
# Folders of thousands of definitions; these are the kinds that the chart makes.
KINDS = {"ScaledObject", "TriggerAuthentication", "ServiceMonitor", "PodMonitor", "PrometheusRule"}


def kubernetes(wheels, target):
    for version in VERSIONS:
        source = next(wheels.glob(f"**/kubernetes-json-schema/v{version}.0-local-strict"))
        folder = target / version
        folder.mkdir(parents=True)
        for file in source.glob("*.json"):
            text = file.read_text().replace('"$id"', '"$was-id"').replace('"/api/_definitions.json#', '"_definitions.json#')
            (folder / file.name).write_text(text)


def closed(schema):
    """Unknown keys are refused, as the API server's strict validation does, unless the definition wants them."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: closed(value) for key, value in schema.items()}
    free = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not free:
        schema["additionalProperties"] = False
    return schema


def custom(folder, target):
    plurals = {f"{kind.lower()}s" for kind in KINDS}
    # Files are called GROUP_PLURAL.yaml.
    for file in sorted(file for file in folder.glob("*.yaml") if file.stem.split("_")[-1] in plurals):
        definition = YAML(typ="safe", pure=True).load(file.read_text())
        names = definition["spec"]["names"]
        for version in definition["spec"]["versions"]:
            schema = closed(version["schema"]["openAPIV3Schema"])
            # The definition says nothing about what every object has.
            schema["properties"]["metadata"] = {"type": "object"}
            name = f"{names['kind'].lower()}-{definition['spec']['group'].split('.')[0]}-{version['name']}.json"
            (target / name).write_text(json.dumps(schema))


def main():
    wheels, target, *folders = map(pathlib.Path, sys.argv[1:])
    kubernetes(wheels, target)
    (target / "custom").mkdir()
    for folder in folders:
        custom(folder, target / "custom")


main()
