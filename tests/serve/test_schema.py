"""Requests drawn from ``/openapi.json`` by schemathesis: whatever they hold, the service has an answer that it described."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance
from starlette.testclient import TestClient

from sparring.serve import web
from sparring.serve.settings import Limits, Settings
from tests.serve.local import Local
from tests.serve.made import published

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance]


def service(folder: Path | None) -> Any:
    options = Settings(models_dir=str(folder) if folder else None, demo=True, limits=Limits(attack_steps=2))
    app = web.build(Local(options), options)

    async def here(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "client": ("127.0.0.1", 1)}, receive, send)

    return here


def described() -> dict[str, Any]:
    return dict(TestClient(service(None), base_url="http://localhost").get("/openapi.json").json())


OPERATIONS = [(path, method) for path, methods in described()["paths"].items() for method in methods]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("models")
    published(folder / "digits")
    return service(folder)


@pytest.mark.parametrize(("path", "method"), OPERATIONS, ids=[f"{m} {p}" for p, m in OPERATIONS])
def test_no_request_breaks_the_service(app: Any, path: str, method: str) -> None:
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers={"host": "localhost"})
    codes = set()

    @given(case=schema[path][method].as_strategy())
    @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    def check(case: schemathesis.Case) -> None:
        if len(str(case.path_parameters.get("name", "x"))) % 2 == 0:
            case.path_parameters["name"] = "digits"  # half of them reach the model
        response = case.call(headers={"host": "localhost"})
        codes.add(response.status_code)
        case.validate_response(response, checks=CHECKS)

    check()
    assert codes <= {200, 404, 422}
