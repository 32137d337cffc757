"""The API does what its own description says: requests made from it, all paths, valid and not, and no fault shows."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import schemathesis
from fake_sites import FakeSite, Json, World
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from homeport.domain.errors import HomeportError

CHECKS = [
    not_a_server_error,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
]
EXAMPLES = 8
"""Of each kind (valid, invalid) for each operation."""

NO_FAULT = (502, 503)
"""What a site answered, or that it is not there: a problem told, and no fault of the API."""


def refuse_unknown_work(site: FakeSite) -> None:
    """As a real site does, for kinds of work that fake ones don't know."""
    do = site._do

    def known(kind: str, params: Json, alive: threading.Event) -> Json:
        if not hasattr(site, "do_" + kind.replace("-", "_")):
            raise HomeportError(f"{kind} is not known here", code="work.unknown-kind")
        return do(kind, params, alive)

    site.__dict__["_do"] = known


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore:Do not use the `random` module")
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["valid", "invalid"])
def test_every_path_answers_as_it_is_described(world: World, mode: GenerationMode) -> None:
    assert world.wait(world.protect(group="shop")["job"]["id"])["state"] == "succeeded"
    for site in world.sites.values():
        refuse_unknown_work(site)
    job = world.call("GET", "/jobs")["jobs"][0]["id"]
    there = {"item": "web", "site": "east", "job": job, "name": "gold", "policy": "gold", "machine": "web"}
    there["group"] = "shop"
    described = world.client.get("/openapi.json").json()
    schema: Any = schemathesis.openapi.from_dict(described)
    asked = 0
    seen: set[str] = set()
    broken: list[str] = []
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.path == "/v1/events":
            continue  # endless: it has tests of its own

        @settings(
            max_examples=EXAMPLES,
            database=None,
            derandomize=True,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Case) -> None:
            nonlocal asked
            asked += 1
            if asked % 2 and not case.path.startswith("/v1/agent/") and mode is GenerationMode.POSITIVE:
                # What is there is asked, too: names made up are mostly not found.
                parameters = dict(case.path_parameters or {})
                case.path_parameters = {name: there.get(name, value) for name, value in parameters.items()}
            if isinstance(case.query, dict) and isinstance(case.query.get("wait"), int | float):
                case.query["wait"] = min(case.query["wait"], 0)  # who waits for news gets none here
            headers = {"Authorization": f"Bearer {world.token}"}
            answer = case.call(base_url=world.url, headers=headers, timeout=60)
            if answer.status_code == 200 and case.method.upper() == "GET":
                seen.add(case.path)
            case.validate_response(answer, checks=CHECKS[1:] if answer.status_code in NO_FAULT else CHECKS)

        try:
            ask()
        except Unsatisfiable:
            continue  # nothing can be wrong in a request that takes nothing
        except Exception as error:
            broken.append(f"{operation.method.upper()} {operation.path}: {error}")
    assert not broken, "\n\n".join(broken)
    assert asked > EXAMPLES * 20, "next to nothing was asked"
    if mode is GenerationMode.POSITIVE:
        assert {"/v1/items/{item}", "/v1/jobs/{job}", "/v1/sites/{site}", "/v1/items/{item}/points"} <= seen
