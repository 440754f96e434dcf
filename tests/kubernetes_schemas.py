"""Schemas that kubeconform reads, from Kubernetes' own OpenAPI document: ``python -m tests.kubernetes_schemas swagger.json DIRECTORY``.

kubeconform downloads such schemas from a site of its own otherwise; this needs no network but that of the Go modules.
"""

import json
import sys
from pathlib import Path
from typing import Any

LOCATION = "{{.ResourceKind}}{{.KindSuffix}}.json"
"""What kubeconform's ``-schema-location`` has behind the directory."""

_DEFINITIONS = "_definitions.json"


def schemas_of(swagger: dict[str, Any]) -> dict[str, Any]:
    """Return the schemas by file name: one for each kind of each version, and the definitions that they refer to.

    A field that a type does not have is wrong, as for the API server with strict validation.
    """
    definitions = {name: _strict(definition) for name, definition in swagger["definitions"].items()}
    schemas: dict[str, Any] = {_DEFINITIONS: {"definitions": definitions}}
    for name, definition in swagger["definitions"].items():
        kinds = definition.get("x-kubernetes-group-version-kind", [])
        if len(kinds) == 1:  # one that belongs to many groups, such as DeleteOptions, is in no manifest
            (kind,) = kinds
            group = kind["group"].partition(".")[0]
            file = "-".join(part for part in (kind["kind"].lower(), group, kind["version"]) if part)
            schemas[f"{file}.json"] = {"$ref": f"{_DEFINITIONS}#/definitions/{name}"}
    return schemas


def _strict(definition: dict[str, Any]) -> dict[str, Any]:
    if definition.get("format") == "int-or-string":
        return {"type": ["string", "integer"]}
    if "properties" in definition:
        return {**definition, "additionalProperties": False}
    if definition.get("type") == "string" and "Quantity" in definition.get("description", ""):
        return {"type": ["string", "number"]}
    return definition


def main(swagger: Path, directory: Path) -> None:
    """Write the schemas of ``swagger`` into ``directory``."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, schema in schemas_of(json.loads(swagger.read_text(encoding="utf-8"))).items():
        (directory / name).write_text(json.dumps(schema), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
