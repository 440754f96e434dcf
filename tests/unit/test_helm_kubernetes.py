"""What a cluster would say of the rendered chart: helm's lint, Kubernetes' schemas, the API server's validation, Pod Security.

Each is skipped where its program is missing; ``make helm-test`` builds all of them.
"""

import pytest

from tests.helm import MINIMAL, VARIANTS, conform, lint, manifests, over, pods, rendered, validate

in_each_variant = pytest.mark.parametrize("variant", VARIANTS)


@in_each_variant
def test_helm_finds_nothing_wrong_with_the_chart(variant: str) -> None:
    done = lint(over(MINIMAL, VARIANTS[variant]))

    assert done.returncode == 0, done.stdout + done.stderr


@in_each_variant
def test_kubernetes_knows_every_field(variant: str) -> None:
    done = conform(rendered(variant))

    assert done.returncode == 0, done.stdout
    assert "Invalid: 0, Errors: 0" in done.stdout


def test_a_field_that_kubernetes_does_not_know_is_found() -> None:
    done = conform(rendered("minimal").replace("runAsNonRoot", "runAsNonroot"))

    assert done.returncode == 1
    assert "'runAsNonroot' not allowed" in done.stdout


@in_each_variant
def test_the_api_server_takes_each_manifest_and_pod_security_each_pod_at_its_strictest(variant: str) -> None:
    done = validate(rendered(variant))

    skipped = [manifest for manifest in manifests(variant) if manifest["kind"] == "PodMonitor"]
    valid = len(manifests(variant)) - len(skipped)
    assert done.stdout == f"Valid: {valid}, Pods: {len(pods(variant))}, Skipped: {len(skipped)}, Faults: 0\n"
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("right", "wrong", "fault"),
    [
        ("capabilities: {drop: [ALL]}", "capabilities: {}", "Deployment tierstream-gateway: restricted: unrestricted capabilities"),
        ("restartPolicy: Never", "restartPolicy: Always", "Job tierstream-topics: spec.template.spec.restartPolicy"),
        ("  name: tierstream-plans", "  name: Plans", "ConfigMap Plans: metadata.name: Invalid value"),
        ("maxUnavailable: 1\n", "maxUnavailable: 1\n  minAvailable: 1\n", "minAvailable and maxUnavailable cannot be both set"),
        ("port: admin}", "port: an-admin-port-of-a-name}", "must be no more than 15 characters"),
        ("runAsNonRoot", "runAsNonroot", 'unknown field "spec.template.spec.securityContext.runAsNonroot"'),
    ],
)
def test_what_a_cluster_would_refuse_is_found(right: str, wrong: str, fault: str) -> None:
    assert right in rendered("minimal")

    done = validate(rendered("minimal").replace(right, wrong))

    assert done.returncode == 1
    assert fault in done.stdout
