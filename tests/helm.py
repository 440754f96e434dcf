"""The chart of deploy/helm: what its files hold, and what helm makes of it where it is installed (``make helm-test``)."""

import json
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kubernetes_schemas import LOCATION

ROOT = Path(__file__).parents[1]
CHART = ROOT / "deploy" / "helm" / "tierstream"
TOOLS = ROOT / "deploy" / "helm" / ".tools"
"""Where ``make helm-test`` puts helm, kubeconform, the schemas, and the program of ``deploy/helm/validate``."""

KUBE_VERSION = "1.36"
"""The version of the cluster that helm renders for; one that Go built assumes 1.20."""

Manifest = dict[str, Any]
Source = str | dict[str, Any]
"""The name of a variant, or values of its own."""

ROLES: dict[str, dict[str, Any]] = yaml.safe_load((CHART / "files" / "roles.yaml").read_text(encoding="utf-8"))
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))

HOOKS = ("topics", "migrate")
LONG_RUNNING = ("gateway", "normalise", "classify", "audit", "forward")

MINIMAL: dict[str, Any] = {
    "image": {"repository": "registry.example.com/tierstream"},
    "settings": {"kafka_bootstrap_servers": "kafka-1.example.com:9093,kafka-2.example.com:9094"},
    "plans": {"tiers": {"plan_pro": "pro", "plan_team": "team_yearly"}},
}
"""All that has to be set."""

_LOGIN = {
    "kafka_security_protocol": "SASL_SSL",
    "kafka_sasl_mechanism": "SCRAM-SHA-512",
    "kafka_sasl_username": "tierstream",
    "forward_max_age_seconds": 315_360_000,
    "loops_rate_per_second": 0.25,
    "grace_days": 0,
}

VARIANTS: dict[str, dict[str, Any]] = {
    "minimal": {},
    "with a login, certificates and a user of each role": {
        "settings": _LOGIN,
        "secrets": {
            "kafka_sasl_password": {"name": "kafka"},
            "ingest_tokens": {"name": "ingest"},
            "loops_webhook_secret": {"name": "loops"},
        },
        "certificates": {"kafka": {"secret": "kafka-ca"}, "postgres": {"configMap": "postgres-ca", "key": "root.pem"}},
        "gateway": {"settings": {"kafka_sasl_username": "gateway"}, "secrets": {"kafka_sasl_password": {"name": "kafka-gateway"}}},
        "stages": {"audit": {"secrets": {"postgres_dsn": {"name": "audit", "key": "dsn"}}, "settings": {"log_level": "debug"}}},
        "setup": {"migrate": {"secrets": {"postgres_dsn": {"name": "owner"}}}, "topics": {"run": "check"}},
    },
    "with all that is off": {
        "image": {"digest": "sha256:" + "0" * 64, "pullSecrets": ["registry"]},
        "gateway": {
            "autoscaling": {"enabled": False},
            "replicas": 3,
            "ingress": {
                "enabled": True,
                "className": "nginx",
                "host": "hooks.example.com",
                "tlsSecret": "hooks-tls",
                "annotations": {"a": "b"},
            },
            "service": {"type": "LoadBalancer", "port": 8080, "annotations": {"a": "b"}},
        },
        "stages": {"classify": {"replicas": 32}},
        "ops": {"schedule": "30 4 * * 1-5"},
        "networkPolicy": {
            "gatewayFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}],
            "metricsFrom": [{"podSelector": {"matchLabels": {"app": "prometheus"}}}],
            "kafka": {"to": [{"ipBlock": {"cidr": "10.1.0.0/16"}}], "ports": [19092]},
        },
        "monitoring": {"annotations": True, "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}}},
        "serviceAccount": {"annotations": {"a": "b"}},
        "runAs": {"user": 20_000, "group": 0},
        "podAnnotations": {"a": "b"},
        "podLabels": {"team": "billing"},
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "stream", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "high",
    },
    "without mail, hooks, network policy, accounts and plans of its own": {
        "settings": {"forward": "off", "loops_base_url": "http://loops.example.com"},
        "secrets": {"loops_api_key": {"name": ""}},
        "plans": {"tiers": None, "existingConfigMap": "plans", "key": "production.toml"},
        "setup": {"topics": {"run": "none"}, "migrate": {"run": False}},
        "networkPolicy": {"enabled": False},
        "serviceAccount": {"create": False, "name": "workers"},
    },
}
"""Values that are rendered by the tests, over the minimal ones."""


def program(name: str) -> str:
    """The path of helm or kubeconform; skips the test where there is none."""
    built = TOOLS / name
    found = str(built) if os.access(built, os.X_OK) else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed; `make helm-test` builds it")
    return found


def over(values: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Return ``values`` with ``more`` over them, as helm lays one file of values over another."""
    merged = dict(values)
    for key, value in more.items():
        merged[key] = over(merged[key], value) if isinstance(value, dict) and isinstance(merged.get(key), dict) else value
    return merged


def template(values: dict[str, Any], *, release: str = "tierstream", chart: Path = CHART) -> "subprocess.CompletedProcess[str]":
    """Render the chart with ``values`` over its defaults."""
    command = [program("helm"), "template", release, str(chart), "--namespace", "billing", "--kube-version", KUBE_VERSION, "--values", "-"]
    return subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=False)


def rendered(source: Source) -> str:
    """The manifests of a variant, or with values of its own, as helm prints them."""
    return _rendered(json.dumps(over(MINIMAL, VARIANTS[source]) if isinstance(source, str) else source))


def lint(values: dict[str, Any]) -> "subprocess.CompletedProcess[str]":
    """Let helm look for what is wrong with the chart itself; warnings count."""
    command = [program("helm"), "lint", str(CHART), "--strict", "--kube-version", KUBE_VERSION, "--values", "-"]
    return subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=False)


@cache
def _rendered(values: str) -> str:
    done = template(json.loads(values))
    assert done.returncode == 0, done.stderr
    return done.stdout


def manifests(source: Source) -> tuple[Manifest, ...]:
    """The same, read."""
    return _read(rendered(source))


@cache
def _read(text: str) -> tuple[Manifest, ...]:
    return tuple(manifest for manifest in yaml.safe_load_all(text) if manifest)


def role_of(manifest: Manifest) -> str:
    """The role that a manifest belongs to."""
    return str(manifest["metadata"]["labels"]["app.kubernetes.io/component"])


def of_kind(source: Source, kind: str) -> dict[str, Manifest]:
    """The manifests of a kind, by their roles."""
    return {role_of(manifest): manifest for manifest in manifests(source) if manifest["kind"] == kind}


def pods(source: Source) -> dict[str, Manifest]:
    """The pod template of each role."""
    found = {}
    for manifest in manifests(source):
        spec = manifest.get("spec", {})
        if pod := spec.get("jobTemplate", {}).get("spec", spec).get("template"):
            found[role_of(manifest)] = pod
    return found


def container(pod: Manifest) -> Manifest:
    """The one container of a pod."""
    (found,) = pod["spec"]["containers"]
    return dict(found)


def environment(pod: Manifest) -> dict[str, Any]:
    """A container's variables: each with its value, or where the value comes from."""
    return {variable["name"]: variable.get("value", variable.get("valueFrom")) for variable in container(pod)["env"]}


def selects(selector: Manifest, pod: Manifest) -> bool:
    """Whether a selector's matchLabels fit a pod."""
    labels = pod["metadata"]["labels"]
    return all(labels.get(key) == value for key, value in selector["matchLabels"].items())


def conform(text: str) -> "subprocess.CompletedProcess[str]":
    """Let kubeconform compare manifests with Kubernetes' own schemas; skips the test where it or they are not there."""
    kubeconform, schemas = program("kubeconform"), TOOLS / "schemas"
    if not schemas.is_dir():
        pytest.skip("Kubernetes' schemas are not there; `make helm-test` gets them")
    location = f"{schemas}/{LOCATION}"
    command = [kubeconform, "-strict", "-summary", "-skip", "PodMonitor", "-schema-location", location]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False)


def validate(text: str) -> "subprocess.CompletedProcess[str]":
    """Let the API server's own validation judge manifests, and Pod Security's level "restricted" their pods (``deploy/helm/validate``)."""
    program_ = TOOLS / "validate"
    if not os.access(program_, os.X_OK):
        pytest.skip("deploy/helm/validate is not built; `make helm-test` builds it")
    return subprocess.run([program_], input=text, capture_output=True, text=True, check=False)
