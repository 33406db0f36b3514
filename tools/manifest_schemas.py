"""Strict schemas of manifests: core kinds, Ray's kinds, settings and Serve configurations.

Each function lists what is wrong with one object, one line each.
"""

from __future__ import annotations

import importlib
import os
import tempfile
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from cytosynth.service_methods import SERVICES

ROOT = Path(__file__).resolve().parent.parent
KUBERNETES = "1.33"
CRDS_VARIABLE = "MANIFEST_CRDS"
"""Environment variable with the folder of KubeRay's CRDs."""
# Kinds of other operators whose schemas are not at hand; policies look at them all the same.
WITHOUT_SCHEMA = ("cert-manager.io/", "monitoring.coreos.com/")


def crds_folder() -> Path:
    """Where KubeRay's CRDs are looked for."""
    return Path(os.environ.get(CRDS_VARIABLE) or ROOT.parent / "shared" / "crds")


def core_problems(manifest: dict[str, Any]) -> list[str]:
    """Problems against Kubernetes' own schema, unknown fields included."""
    import kubernetes_validate

    try:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        where = ".".join(str(part) for part in error.path)
        return [f"schema: {where or '(top)'}: {error.message.splitlines()[0][:200]}"]
    except (
        kubernetes_validate.SchemaNotFoundError,
        kubernetes_validate.InvalidSchemaError,
    ) as error:
        return [f"schema: {error}"]
    return []


def ray_problems(manifest: dict[str, Any]) -> list[str]:
    """Problems against a Ray kind's strict CRD; empty without the CRDs."""
    validator = _ray_validator(manifest["kind"], manifest["apiVersion"].split("/")[1])
    if validator is None:
        return []
    return [
        f"schema: {'.'.join(str(part) for part in error.absolute_path) or '(top)'}: "
        f"{error.message[:200]}"
        for error in validator.iter_errors(manifest)
    ]


@cache
def _ray_validator(kind: str, version: str) -> Any:
    import jsonschema

    path = crds_folder() / f"{kind.lower()}s.yaml"
    if not path.is_file():
        return None
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    crd = yaml.load(path.read_text(), loader)
    schemas = {one["name"]: one["schema"]["openAPIV3Schema"] for one in crd["spec"]["versions"]}
    schema = _strict(schemas[version])
    schema["properties"]["metadata"] = {"type": "object"}
    return jsonschema.Draft7Validator(schema)


def _strict(schema: Any) -> Any:
    """An OpenAPI schema as a JSON schema that refuses unknown fields."""
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    strict = {}
    for key, value in schema.items():
        if key == "properties":
            strict[key] = {name: _strict(one) for name, one in value.items()}
        elif not key.startswith("x-") and key not in ("format", "default"):
            strict[key] = _strict(value)
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields")
    if "properties" in schema and "additionalProperties" not in schema and not open_ended:
        strict["additionalProperties"] = False
    return strict


def pods_of(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """The Pods that a workload, a Job or a Ray kind makes."""
    spec, name = manifest.get("spec", {}), manifest.get("metadata", {}).get("name", "")
    found: list[tuple[str, dict[str, Any]]] = []
    match manifest.get("kind"):
        case "Pod":
            return [manifest]
        case "Deployment" | "StatefulSet" | "DaemonSet" | "Job":
            found.append((name, spec.get("template", {})))
        case "CronJob":
            found.append((name, spec["jobTemplate"]["spec"]["template"]))
        case "RayService" | "RayCluster":
            cluster = spec.get("rayClusterConfig", spec)
            found.append((f"{name}-head", cluster.get("headGroupSpec", {}).get("template", {})))
            for group in cluster.get("workerGroupSpecs", []):
                found.append((f"{name}-{group.get('groupName')}", group.get("template", {})))
    return [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            **deepcopy(template),
            "metadata": {
                **template.get("metadata", {}),
                "name": pod,
                "namespace": manifest.get("metadata", {}).get("namespace", "default"),
            },
        }
        for pod, template in found
    ]


def serve_problems(manifest: dict[str, Any]) -> list[str]:
    """Problems of a RayService's ``serveConfigV2``: schema, keys, imports, listeners."""
    from ray.serve.schema import ServeDeploySchema

    config = yaml.safe_load(manifest.get("spec", {}).get("serveConfigV2") or "{}")
    try:
        schema = ServeDeploySchema.model_validate(config)
    except ValueError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        return [f"serveConfigV2: {' '.join(lines[1:3])[:200]}"]
    problems = [f"serveConfigV2: unknown key {key}" for key in _unknown_keys(config, schema)]
    if schema.grpc_options.grpc_servicer_functions:
        problems.append("serveConfigV2: grpc_options: the replicas are gRPC servers themselves")
    if schema.http_options.port != 8000:
        problems.append("serveConfigV2: HTTP must listen on 8000, where KubeRay asks for health")
    for application in schema.applications:
        problems += [f"serveConfigV2: {line}" for line in _import_problems(application.import_path)]
    return problems


def _unknown_keys(given: Any, model: Any, where: str = "") -> list[str]:
    """Keys of ``given`` without a field in its pydantic model."""
    if isinstance(given, list):
        pairs = zip(given, model, strict=False)
        return [key for one, made in pairs for key in _unknown_keys(one, made, where)]
    fields = getattr(type(model), "model_fields", None)
    if not isinstance(given, dict) or fields is None:
        return []
    unknown = [f"{where}{key}" for key in given if key not in fields]
    for key in given:
        if key in fields:
            unknown += _unknown_keys(given[key], getattr(model, key), f"{where}{key}.")
    return unknown


def _import_problems(path: str) -> list[str]:
    module, separator, name = path.partition(":")
    if not separator:
        module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        return [f"import_path {path} cannot be imported: {error}"]
    return [] if callable(found) else [f"import_path {path} is no function"]


def settings_problems(manifest: dict[str, Any]) -> list[str]:
    """A ConfigMap's CYTOSYNTH_ keys that are unknown or have wrong values."""
    from pydantic import ValidationError

    from services.common.rpc.server import HOST_VARIABLE, PORT_VARIABLE
    from services.launch.service_settings import settings_class

    problems = []
    classes = [settings_class(name) for name in SERVICES]
    data = manifest.get("data") or {}
    for key, value in data.items():
        if not key.startswith("CYTOSYNTH_") or key in (HOST_VARIABLE, PORT_VARIABLE):
            continue
        readers = [one for one in classes if key in one.variables()]
        if not readers:
            problems.append(f"settings: {key}: no such setting")
            continue
        field = _field(key)
        beside = {_field(name): data[name] for name in readers[0].variables() if name in data}
        try:
            readers[0](**beside)
        except ValidationError as error:
            wrong = [one for one in error.errors() if field in one["loc"]]
            problems += [f"settings: {key}: {one['msg']} (got {value!r})" for one in wrong]
    return problems


def _field(variable: str) -> str:
    return variable.removeprefix("CYTOSYNTH_").lower()


def ray_environment_problems(manifests: list[dict[str, Any]]) -> list[str]:
    """Differences between the pods' Ray settings and the local stack's."""
    from services.launch.ray_environment import ray_environment

    local_only = {
        "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "RAY_worker_niceness", "no_proxy", "NO_PROXY",
    }  # fmt: skip
    given: dict[str, str] = {}
    for one in manifests:
        if one["kind"] == "ConfigMap" and one["metadata"]["name"].startswith("ray-environment"):
            given = one["data"]
    with tempfile.TemporaryDirectory() as folder:
        wanted = ray_environment(Path(folder) / "token")
    return [
        f"ConfigMap/ray-environment: settings: {key} is {given.get(key)!r}, "
        f"services/launch/ray_environment.py says {value!r}"
        for key, value in wanted.items()
        if key not in local_only and given.get(key) != value
    ]
