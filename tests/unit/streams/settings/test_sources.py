"""Where settings stand: variables of any case, blanks, and what Kubernetes puts among them."""

import logging
from collections.abc import Iterator

import pytest

from streams.settings import Settings, load_settings
from streams.settings.sources import _warn_of_service_link, environment

FIELDS = {name: Settings.model_fields[name] for name in ("gateway_port", "gateway_host", "admin_port")}


@pytest.fixture(autouse=True)
def first_warning() -> Iterator[None]:
    """Each test is a process of its own, which has not warned yet."""
    _warn_of_service_link.cache_clear()
    yield
    _warn_of_service_link.cache_clear()


def test_environment_is_read_in_any_case_trimmed_and_a_blank_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("Some_gateway_port", " 81\n")
    monkeypatch.setenv("SOME_GATEWAY_HOST", " \n")
    monkeypatch.setenv("OTHER_ADMIN_PORT", "1")

    assert environment("SOME_", FIELDS) == {"gateway_port": "81"}


@pytest.mark.parametrize("address", ["tcp://10.43.12.9:8080", "udp://10.43.12.9:53", "tcp://[fd00::9]:8080", " tcp://10.43.12.9:8080 "])
@pytest.mark.parametrize(
    ("variable", "default", "service"), [("GATEWAY_PORT", 8080, "tierstream-gateway"), ("ADMIN_PORT", 9464, "tierstream-admin")]
)
def test_address_that_kubernetes_puts_where_a_port_belongs_is_left_aside_with_one_warning_that_names_where_it_comes_from(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, address: str, variable: str, default: int, service: str
) -> None:
    monkeypatch.setenv(f"TIERSTREAM_{variable}", address)
    monkeypatch.setenv(f"TIERSTREAM_{variable.removesuffix('PORT')}SERVICE_HOST", "10.43.12.9")
    monkeypatch.setenv(f"TIERSTREAM_{variable}_8080_TCP_PORT", "8080")

    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert getattr(load_settings(), variable.lower()) == default

    (line,) = caplog.messages
    assert line.startswith(f"TIERSTREAM_{variable} is left aside: ")
    assert f"the Service {service}, put there by Kubernetes. Set enableServiceLinks: false" in line


@pytest.mark.parametrize("value", ["tcp://10.43.12.9", "http://10.43.12.9:8080", "10.43.12.9:8080"])
def test_other_value_that_is_no_port_is_kept_to_be_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("SOME_GATEWAY_PORT", value)

    assert environment("SOME_", FIELDS) == {"gateway_port": value}


def test_address_of_a_service_where_a_host_belongs_is_kept_to_be_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_GATEWAY_HOST", "tcp://10.43.12.9:8080")

    assert environment("SOME_", FIELDS) == {"gateway_host": "tcp://10.43.12.9:8080"}
