"""Values that the chart refuses: each ends with one sentence, or with the place that is wrong. Skipped where there is no helm."""

import os
from typing import Any

import pytest

from tests.helm import CHART, MINIMAL, over, template


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"image": {"repository": ""}}, "image.repository is empty: name the image"),
        ({"settings": {"kafka_bootstrap_servers": ""}}, "settings.kafka_bootstrap_servers is empty: name Kafka's addresses"),
        ({"plans": {"tiers": None}}, "plans.tiers is empty: give each Razorpay plan its tier"),
        ({"plans": {"existingConfigMap": "plans"}}, "plans.tiers and plans.existingConfigMap are both set"),
        ({"secrets": {"postgres_dsn": {"name": ""}}}, "secrets.postgres_dsn.name is empty, and audit does not start without it"),
        ({"secrets": {"razorpay_webhook_secrets": {"name": ""}}}, "secrets.razorpay_webhook_secrets.name is empty, and gateway does not"),
        ({"secrets": {"loops_api_key": {"name": ""}}}, "secrets.loops_api_key.name is empty, and forward does not start without it"),
        ({"settings": {"kafka_security_protocol": "SASL_SSL"}}, "which needs a login: set settings.kafka_sasl_mechanism"),
        (
            {"settings": {"kafka_security_protocol": "SASL_SSL", "kafka_sasl_mechanism": "PLAIN", "kafka_sasl_username": "t"}},
            "secrets.kafka_sasl_password.name is empty, and audit does not start without it",
        ),
        ({"settings": {"min_insync_replicas": 4}}, "settings.min_insync_replicas is 4, more than settings.replication_factor (3)"),
        ({"stages": {"audit": {"replicas": 33}}}, "stages.audit.replicas is 33, more than settings.partitions (32)"),
        ({"settings": {"grace_days": 3}}, "settings.grace_reminder_days reminds on day 3"),
        ({"gateway": {"autoscaling": {"minReplicas": 9}}}, "gateway.autoscaling.minReplicas is 9, more than maxReplicas (6)"),
        ({"gateway": {"resources": {"requests": {"cpu": None}}}}, "gateway.resources.requests.cpu is not set"),
        ({"gateway": {"ingress": {"enabled": True}}}, "gateway.ingress.host is empty: name the host"),
        ({"certificates": {"kafka": {"secret": "a", "configMap": "b"}}}, "certificates.kafka names a ConfigMap and a Secret"),
        ({"serviceAccount": {"create": False}}, "serviceAccount.name is empty: name an existing one"),
        ({"podLabels": {"app.kubernetes.io/name": "x"}}, "podLabels has app.kubernetes.io/name, which the chart sets itself"),
    ],
)
def test_values_that_do_not_fit_together_end_with_one_sentence(values: dict[str, Any], sentence: str) -> None:
    done = template(over(MINIMAL, values))

    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("Error:")]
    assert sentence in line
    assert line.endswith(".")
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"gatway": {}}, "'gatway' not allowed"),
        ({"settings": {"partitons": 8}}, "'partitons' not allowed"),
        ({"settings": {"partitions": "eight"}}, "/settings/partitions': got string, want integer"),
        ({"settings": {"partitions": 0}}, "/settings/partitions': minimum"),
        ({"settings": {"forward": False}}, "/settings/forward'"),
        ({"settings": {"kafka_bootstrap_servers": "kafka://kafka:9092"}}, "/settings/kafka_bootstrap_servers'"),
        ({"stages": {"classify": {"replicas": -1}}}, "/stages/classify/replicas'"),
        ({"stages": {"feedback": {"replicas": 1}}}, "'feedback' not allowed"),
        ({"plans": {"tiers": {"plan_pro": "gold"}}}, "/plans/tiers/plan_pro'"),
        ({"secrets": {"postgres_dsn": "postgresql://t:hunter2@db/t"}}, "/secrets/postgres_dsn': got string, want object"),
        ({"gateway": {"secrets": {"postgres_dsn": {"name": "x"}}}}, "'postgres_dsn' not allowed"),
        ({"image": {"pullPolicy": "Sometimes"}}, "/image/pullPolicy'"),
        ({"networkPolicy": {"gatewayFrom": [{"cidr": "10.0.0.0/8"}]}}, "'cidr' not allowed"),
        ({"runAs": {"user": 0}}, "/runAs/user'"),
    ],
)
def test_values_that_are_wrong_by_themselves_are_named(values: dict[str, Any], place: str) -> None:
    done = template(over(MINIMAL, values))

    assert done.returncode == 1
    assert place in done.stderr
    assert "hunter2" not in done.stderr


def test_chart_holds_no_file_that_its_templates_do_not_use() -> None:
    assert sorted(os.listdir(CHART)) == [".helmignore", "Chart.yaml", "files", "templates", "values.schema.json", "values.yaml"]
    assert os.listdir(CHART / "files") == ["roles.yaml"]


def test_a_secret_as_a_setting_is_refused() -> None:
    done = template(over(MINIMAL, {"settings": {"postgres_dsn": "postgresql://t:hunter2@db/t"}}))

    assert done.returncode == 1
    assert "'postgres_dsn' not allowed" in done.stderr
    assert "hunter2" not in done.stderr


def test_long_release_name_leaves_room_for_the_labels_of_its_pods() -> None:
    done = template(MINIMAL, release="a" * 53)

    names = [line.removeprefix("  name: ") for line in done.stdout.splitlines() if line.startswith("  name: ")]
    assert done.returncode == 0
    assert max(map(len, names)) <= 52  # a StatefulSet's pods have eleven characters more in a label of 63
