"""What helm makes of the chart, with several sets of values: that its parts fit each other, the settings and the compose file.

Skipped where there is no helm; ``make helm-test`` builds it. Whether a cluster takes it: test_helm_kubernetes.py.
"""

import shutil
from pathlib import Path
from typing import Any

import certifi
import pytest
import yaml

from streams.engine.worker import STOP_SECONDS
from streams.gateway import server as gateway
from streams.settings import PREFIX, load_plans, load_settings
from tests.helm import (
    CHART,
    HOOKS,
    LONG_RUNNING,
    MINIMAL,
    ROLES,
    VALUES,
    VARIANTS,
    container,
    environment,
    manifests,
    of_kind,
    over,
    pods,
    rendered,
    selects,
    template,
)
from tests.unit.test_compose import SERVICES, seconds
from tests.unit.test_helm import SECRETS, roles_of

LOGIN, ALL, LEAST = [variant for variant in VARIANTS if variant != "minimal"]
STAGES = [role for role in LONG_RUNNING if role != "gateway"]
SECRET_TEXT = {"postgres_dsn": "postgresql://t:t@db/t", "loops_webhook_secret": "whsec_c2VjcmV0"}

in_each_variant = pytest.mark.parametrize("variant", VARIANTS)


@in_each_variant
def test_names_are_unique_and_every_role_has_its_pods(variant: str) -> None:
    hooks = set() if variant == LEAST else set(HOOKS)

    names = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests(variant)]

    assert len(set(names)) == len(names)
    assert set(pods(variant)) == {*LONG_RUNNING, "ops"} | hooks


# Settings and secrets


@in_each_variant
def test_each_pod_has_settings_that_its_roles_start_with(variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = over(over(VALUES, MINIMAL), VARIANTS[variant])
    for role, pod in pods(variant).items():
        with monkeypatch.context() as patch:
            for name, value in environment(pod).items():
                setting = name.removeprefix(PREFIX).removesuffix("_FILE").lower()
                if isinstance(value, dict):
                    value = f"{role}-0"
                elif setting in SECRETS:
                    assert value == f"/etc/tierstream/secrets/{setting}"
                    value = str(tmp_path / setting)
                    Path(value).write_text(SECRET_TEXT.get(setting, "secret") + "\n")
                elif name == "TIERSTREAM_KAFKA_SSL_CAFILE":
                    value = certifi.where()
                patch.setenv(name, value)
            settings = load_settings()

        for of in roles_of(role):
            settings.require(of)
        own = {**values["settings"], **places(values)[role].get("settings", {})}
        own = {name: value for name, value in own.items() if "kafka" in ROLES[role]["reaches"] or not name.startswith("kafka_")}
        assert {name: getattr(settings, name) for name in own} == own


def places(values: dict[str, Any]) -> dict[str, Any]:
    """The part of the values that belongs to each role."""
    return {**values, **values["stages"], **values["setup"]}


@in_each_variant
def test_no_manifest_holds_a_secret(variant: str) -> None:
    given = {name for pod in pods(variant).values() for name in environment(pod)}

    assert {name for name in given if name.removeprefix(PREFIX).lower() in SECRETS} == set()
    assert of_kind(variant, "Secret") == {}
    assert "secretKeyRef" not in rendered(variant)
    assert "envFrom" not in rendered(variant)


@in_each_variant
def test_each_role_mounts_its_own_secrets_alone(variant: str) -> None:
    for role, pod in pods(variant).items():
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        sources = volumes.get("secrets", {"projected": {"sources": []}})["projected"]["sources"]
        mounted = {item["path"] for source in sources for item in source["secret"]["items"]}

        assert mounted == {name.removeprefix(PREFIX).removesuffix("_FILE").lower() for name in environment(pod) if name.endswith("_FILE")}
        assert mounted <= set(ROLES[role]["secrets"])
        assert {mount["name"] for mount in container(pod)["volumeMounts"]} == set(volumes)


def test_a_role_can_have_a_user_of_its_own() -> None:
    pod = pods(LOGIN)

    def source_of(role: str, path: str) -> tuple[str, str]:
        sources = next(volume for volume in pod[role]["spec"]["volumes"] if volume["name"] == "secrets")["projected"]["sources"]
        (found,) = [source["secret"] for source in sources if source["secret"]["items"][0]["path"] == path]
        return found["name"], found["items"][0]["key"]

    assert source_of("audit", "postgres_dsn") == ("audit", "dsn")
    assert source_of("migrate", "postgres_dsn") == ("owner", "postgres-dsn")
    assert source_of("forward", "postgres_dsn") == ("tierstream", "postgres-dsn")
    assert source_of("gateway", "kafka_sasl_password") == ("kafka-gateway", "kafka-sasl-password")
    assert source_of("classify", "kafka_sasl_password") == ("kafka", "kafka-sasl-password")
    assert environment(pod["gateway"])["TIERSTREAM_KAFKA_SASL_USERNAME"] == "gateway"
    assert container(pod["topics"])["args"] == ["topics", "check"]


def test_plans_are_a_file_that_normalise_reads(tmp_path: Path) -> None:
    manifest = of_kind("minimal", "ConfigMap")["normalise"]
    file = tmp_path / "plans.toml"
    file.write_text(manifest["data"]["plans.toml"])

    plans = {plan: tier.label for plan, tier in load_plans(file).items()}

    assert plans == {"plan_pro": "pro", "plan_team": "team"}
    assert "checksum/plans" in pods("minimal")["normalise"]["metadata"]["annotations"]
    assert "checksum/plans" not in pods(LEAST)["normalise"]["metadata"]["annotations"]
    (volume,) = [volume for volume in pods(LEAST)["normalise"]["spec"]["volumes"] if volume["name"] == "plans"]
    assert volume["configMap"] == {"name": "plans", "items": [{"key": "production.toml", "path": "plans.toml"}]}


# Pods


@in_each_variant
def test_worker_is_a_static_member_named_after_its_pod(variant: str) -> None:
    from_the_pod = {"fieldRef": {"fieldPath": "metadata.name"}}

    ids = {role: environment(pod).get("TIERSTREAM_INSTANCE_ID") for role, pod in pods(variant).items()}

    assert set(of_kind(variant, "StatefulSet")) == set(STAGES)
    assert {role for role, value in ids.items() if value == from_the_pod} == set(STAGES)
    assert {value for role, value in ids.items() if role not in STAGES} == {None}


@in_each_variant
def test_commands_are_those_of_the_compose_file(variant: str) -> None:
    commands = {role: container(pod)["args"] for role, pod in pods(variant).items() if role != "topics"}

    assert commands == {role: SERVICES[role]["command"] for role in commands}


@in_each_variant
def test_pod_has_no_rights_and_nothing_to_write_to_but_temporary_files(variant: str) -> None:
    for pod in pods(variant).values():
        spec, rights = pod["spec"], container(pod)["securityContext"]
        writable = [mount for mount in container(pod)["volumeMounts"] if not mount.get("readOnly")]

        assert (spec["automountServiceAccountToken"], spec["enableServiceLinks"]) == (False, False)
        assert (spec["securityContext"]["runAsNonRoot"], spec["securityContext"]["seccompProfile"]) == (True, {"type": "RuntimeDefault"})
        assert spec["securityContext"].get("runAsUser") == (20_000 if variant == ALL else None)
        assert rights == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
        assert [mount["mountPath"] for mount in writable] == ["/tmp"]
        assert set(container(pod)["resources"]) == {"requests", "limits"}


@in_each_variant
def test_probes_ask_ports_that_the_container_has_as_the_compose_file_does(variant: str) -> None:
    check = SERVICES["gateway"]["healthcheck"]
    for role in LONG_RUNNING:
        one = container(pods(variant)[role])
        ports = {port["name"]: port["containerPort"] for port in one["ports"]}
        probes = {name: one[name] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
        ready = probes["readinessProbe"]

        assert {probe["httpGet"]["port"] for probe in probes.values()} == {"admin"}
        assert str(ports["admin"]) == environment(pods(variant)[role])["TIERSTREAM_ADMIN_PORT"]
        assert f'"{ready["httpGet"]["path"]}"' in check["test"][-1]
        assert (ready["periodSeconds"], ready["timeoutSeconds"]) == (seconds(check["interval"]), seconds(check["timeout"]))
        assert ready["failureThreshold"] == check["retries"]
        # What is not ready, be it that Kafka is away or that it restores, is not to be killed for that.
        assert {probes[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe")} == {"/metrics"}


@pytest.mark.parametrize("wait", [0, 0.5, 60, 600])
def test_a_worker_that_waits_for_kafka_is_not_killed_meanwhile(wait: float) -> None:
    values = over(MINIMAL, {"settings": {"kafka_wait_seconds": wait}})
    probes = [container(pod)["startupProbe"] for role, pod in pods(values).items() if role in LONG_RUNNING]

    assert len(probes) == len(LONG_RUNNING)
    assert {probe["periodSeconds"] * probe["failureThreshold"] >= wait + 60 for probe in probes} == {True}


@in_each_variant
def test_pod_has_the_time_that_a_stop_in_order_takes(variant: str) -> None:
    longest = max(STOP_SECONDS, gateway.GRACE_SECONDS + gateway.FLUSH_SECONDS) + 2
    compose = seconds(SERVICES["gateway"]["stop_grace_period"])
    one = pods(variant)["gateway"]
    (drain,) = [int(word) for word in container(one)["lifecycle"]["preStop"]["exec"]["command"] if word.isdigit()]

    grace = {role: pods(variant)[role]["spec"]["terminationGracePeriodSeconds"] for role in LONG_RUNNING}

    assert grace == {"gateway": compose + drain, **dict.fromkeys(STAGES, compose)}
    assert min(grace.values()) > longest


# What belongs to the pods


@in_each_variant
def test_each_disruption_budget_selects_the_pods_of_one_role(variant: str) -> None:
    budgets = of_kind(variant, "PodDisruptionBudget")

    for role, budget in budgets.items():
        assert [other for other, pod in pods(variant).items() if selects(budget["spec"]["selector"], pod)] == [role]
        assert budget["spec"]["maxUnavailable"] == 1
    assert set(budgets) == set(LONG_RUNNING)


@in_each_variant
def test_each_controller_selects_its_own_pods(variant: str) -> None:
    for kind in ("Deployment", "StatefulSet"):
        for role, manifest in of_kind(variant, kind).items():
            assert [other for other, pod in pods(variant).items() if selects(manifest["spec"]["selector"], pod)] == [role]


@in_each_variant
def test_services_lead_to_ports_of_the_pods_that_they_select(variant: str) -> None:
    services = of_kind(variant, "Service")

    for role, service in services.items():
        (port,) = service["spec"]["ports"]
        assert [other for other, pod in pods(variant).items() if selects({"matchLabels": service["spec"]["selector"]}, pod)] == [role]
        assert port["targetPort"] in {named["name"] for named in container(pods(variant)[role])["ports"]}
    sets = of_kind(variant, "StatefulSet")
    assert {role: sets[role]["spec"]["serviceName"] for role in sets} == {role: services[role]["metadata"]["name"] for role in sets}
    assert services["gateway"]["spec"]["ports"][0]["targetPort"] == "http"


@pytest.mark.parametrize("variant", [variant for variant in VARIANTS if variant != LEAST])
def test_network_policies_select_every_pod_and_open_what_its_role_reaches(variant: str) -> None:
    policies = of_kind(variant, "NetworkPolicy")
    kafka = {19092} if variant == ALL else {9093, 9094}

    for role, pod in pods(variant).items():
        assert [other for other, policy in policies.items() if selects(policy["spec"]["podSelector"], pod)] == [role]
        spec = policies[role]["spec"]
        assert spec["policyTypes"] == ["Ingress", "Egress"]
        opened = {port["port"] for rule in spec["egress"] for port in rule["ports"]}
        reached = {"kafka": kafka, "postgres": {5432}, "loops": {443}}
        assert opened == {53}.union(*(reached[service] for service in ROLES[role]["reaches"]))
        entered = {port["port"] for rule in spec["ingress"] for port in rule["ports"]}
        metrics = {9464} if variant == ALL and role in LONG_RUNNING else set()
        assert entered == metrics | ({8080} if role == "gateway" else set())
        assert all("from" in rule for rule in spec["ingress"] if rule["ports"][0]["port"] == 9464)


def test_network_policy_can_be_left_out_and_follows_the_address_of_loops() -> None:
    values = over(MINIMAL, {"settings": {"loops_base_url": "http://loops.example.com:8025/api"}})

    assert of_kind(LEAST, "NetworkPolicy") == {}
    rules = of_kind(values, "NetworkPolicy")["forward"]["spec"]["egress"]
    assert rules[-1] == {"ports": [{"protocol": "TCP", "port": 8025}]}


@pytest.mark.parametrize("variant", [variant for variant in VARIANTS if variant != LEAST])
def test_topics_and_migrations_come_before_the_pods_and_after_what_they_need(variant: str) -> None:
    hooks = [manifest for manifest in manifests(variant) if "helm.sh/hook" in manifest["metadata"].get("annotations", {})]
    weight = {(hook["kind"], hook["metadata"]["name"]): int(hook["metadata"]["annotations"]["helm.sh/hook-weight"]) for hook in hooks}
    jobs = {role: of_kind(variant, "Job")[role] for role in HOOKS}

    assert {hook["metadata"]["annotations"]["helm.sh/hook"] for hook in hooks} == {"pre-install,pre-upgrade"}
    assert [weight["Job", jobs[role]["metadata"]["name"]] for role in HOOKS] == [0, 1]
    assert {role for role in pods(variant) if role not in HOOKS} == {*LONG_RUNNING, "ops"}
    for role, job in jobs.items():
        account = job["spec"]["template"]["spec"]["serviceAccountName"]
        assert weight["ServiceAccount", account] < 0
        assert weight["NetworkPolicy", of_kind(variant, "NetworkPolicy")[role]["metadata"]["name"]] < 0
        assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"
    assert len(hooks) == 5


@in_each_variant
def test_service_account_is_there_and_has_no_token(variant: str) -> None:
    accounts = {manifest["metadata"]["name"]: manifest for manifest in manifests(variant) if manifest["kind"] == "ServiceAccount"}
    named = {pod["spec"]["serviceAccountName"] for pod in pods(variant).values()}

    assert named == ({"workers"} if variant == LEAST else set(accounts))
    assert all(account["automountServiceAccountToken"] is False for account in accounts.values())


def test_gateway_is_scaled_by_its_use_of_cpu_or_fixed() -> None:
    scaler, deployment = (of_kind("minimal", kind)["gateway"] for kind in ("HorizontalPodAutoscaler", "Deployment"))

    assert scaler["spec"]["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": deployment["metadata"]["name"]}
    assert "replicas" not in deployment["spec"]
    assert of_kind(ALL, "HorizontalPodAutoscaler") == {}
    assert of_kind(ALL, "Deployment")["gateway"]["spec"]["replicas"] == 3


def test_ingress_leads_to_the_gateways_webhooks_alone() -> None:
    ingress = of_kind(ALL, "Ingress")["gateway"]["spec"]
    (path,) = ingress["rules"][0]["http"]["paths"]

    assert path["path"] == "/webhooks"
    assert path["backend"]["service"] == {"name": of_kind(ALL, "Service")["gateway"]["metadata"]["name"], "port": {"name": "http"}}
    assert ingress["tls"] == [{"hosts": ["hooks.example.com"], "secretName": "hooks-tls"}]
    assert of_kind("minimal", "Ingress") == {}


def test_monitoring_is_off_unless_it_is_asked_for() -> None:
    assert "prometheus.io/port" not in rendered("minimal")
    assert "PodMonitor" not in rendered("minimal")
    annotated = {role for role, pod in pods(ALL).items() if pod["metadata"]["annotations"].get("prometheus.io/port") == "9464"}
    assert annotated == set(LONG_RUNNING)
    (monitor,) = [manifest for manifest in manifests(ALL) if manifest["kind"] == "PodMonitor"]
    assert monitor["spec"]["podMetricsEndpoints"][0]["port"] == "admin"


def test_verify_runs_by_hand_unless_it_has_a_schedule() -> None:
    assert of_kind("minimal", "CronJob")["ops"]["spec"]["suspend"] is True
    assert {key: of_kind(ALL, "CronJob")["ops"]["spec"][key] for key in ("suspend", "schedule")} == {
        "suspend": False,
        "schedule": "30 4 * * 1-5",
    }


@pytest.mark.parametrize(
    ("variant", "said", "unsaid"),
    [
        ("minimal", ["http://tierstream-gateway.billing:80/webhooks/razorpay"], ["gateway_proxies", "There is no NetworkPolicy"]),
        (ALL, ["https://hooks.example.com/webhooks/razorpay", "settings.gateway_proxies is not set"], ["tierstream-gateway.billing"]),
        (LEAST, ["There is no NetworkPolicy"], []),
    ],
)
def test_notes_say_where_webhooks_go_and_what_is_open(variant: str, said: list[str], unsaid: list[str], tmp_path: Path) -> None:
    chart = shutil.copytree(CHART, tmp_path / "chart")
    notes = chart / "templates" / "NOTES.txt"  # which `helm template` does not print
    as_data = 'kind: Notes\nnotes: {{ include "notes" . | toJson }}\n'
    notes.rename(chart / "templates" / "notes.yaml").write_text(f'{{{{ define "notes" }}}}{notes_text()}{{{{ end }}}}{as_data}')

    done = template(over(MINIMAL, VARIANTS[variant]), chart=chart)
    (text,) = [part["notes"] for part in yaml.safe_load_all(done.stdout) if part and part["kind"] == "Notes"]

    assert [part for part in said if part not in text] == []
    assert [part for part in unsaid if part in text] == []


def notes_text() -> str:
    return (CHART / "templates" / "NOTES.txt").read_text(encoding="utf-8")
