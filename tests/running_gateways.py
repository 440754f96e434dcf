"""Gateways whose readiness a test asks for, and what it sends them."""

from collections.abc import Callable
from typing import Any

import httpx

from streams.settings import Settings
from tests.integration.test_gateway import gateway_settings

TOKEN = {"Authorization": "Bearer demo-ingest"}


def receiving(settings: Settings, **changes: Any) -> Settings:
    return gateway_settings(settings, **{"admin_port": settings.admin_port, **changes})


def claim(note: str = "") -> dict[str, object]:
    return {
        "kind": "onboarding.claimed",
        "team_id": f"7b0c54c8-2f55-4c1b-9f59-{0:012x}",
        "data": {"email": "jane@example.com", "note": note},
    }


def readiness(settings: Settings) -> tuple[int, str]:
    """The status of ``/readyz``, and what it says of all parts."""
    answer = httpx.get(f"http://127.0.0.1:{settings.admin_port}/readyz", timeout=10)
    return answer.status_code, " ".join(part["detail"] for part in answer.json()["parts"].values())


def says(settings: Settings, status: int, *words: str) -> Callable[[], bool]:
    def seen() -> bool:
        found, details = readiness(settings)
        return found == status and all(word in details for word in words)

    return seen
