"""No malformed request gets anything but a 4xx that names the field."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.bento.conftest import running
from tests.bento.malformed import JSON_TYPE, RAW, stream
from tests.bento.shop import shop

KNOWN = shop().products[0].id


def test_six_hundred_malformed_requests_are_all_4xx_and_name_the_field(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(tmp_path) as service:
            for bad in stream(seed=1, count=600, known=KNOWN):
                await asyncio.sleep(0)  # no socket here: let the loop's clock tick
                response = await service.client.post(
                    bad.path, content=bad.body, headers=bad.headers
                )
                shown = f"{bad.path} {bad.body[:120]!r} {bad.headers}: {response.text[:300]}"
                assert 400 <= response.status_code < 500, shown
                answer = response.json()
                assert answer["request_id"] == response.headers["x-request-id"]
                named = [fault["field"] for fault in answer["fields"]]
                assert any(field.startswith(bad.field) for field in named), shown
            good = await service.post("/recommend", {"history": [KNOWN]})
            assert good["items"], "the service must answer as before"

    asyncio.run(run())


@pytest.mark.parametrize("name", RAW)
def test_every_broken_document_is_refused(name: str, tmp_path: Path) -> None:
    async def run() -> None:
        async with running(tmp_path) as service:
            response = await service.client.post("/search", content=RAW[name], headers=JSON_TYPE)
            assert response.status_code in (400, 422), response.text
            assert response.json()["fields"]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nothing", 404), ("GET", "/recommend", 405), ("POST", "/model", 405),
     ("DELETE", "/events", 405), ("POST", "/../etc/passwd", 404)],
)  # fmt: skip
def test_wrong_paths_and_methods_are_answered_in_json(
    method: str, path: str, status: int, tmp_path: Path
) -> None:
    async def run() -> None:
        async with running(tmp_path) as service:
            response = await service.client.request(method, path)
            assert response.status_code == status
            assert response.json()["fields"][0]["field"] in ("path", "method")

    asyncio.run(run())


def test_a_body_without_a_length_is_measured_while_it_comes(tmp_path: Path) -> None:
    async def run() -> None:
        async def pieces():
            for _ in range(100):
                yield b"x" * 10_000

        async with running(tmp_path) as service:
            response = await service.client.post("/recommend", content=pieces(), headers=JSON_TYPE)
            assert response.status_code == 413
            assert response.json()["fields"][0]["found"] == "1000000 bytes"

    asyncio.run(run())


def test_an_error_never_repeats_more_than_a_little_of_what_was_sent(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(tmp_path) as service:
            body = {"history": ["<b>" * 10_000] * 40}
            response = await service.client.post("/recommend", json=body)
            assert response.status_code in (413, 422)
            body = {"history": ["<b>" * 500] * 40}
            response = await service.client.post("/recommend", json=body)
            assert response.status_code == 422
            assert len(response.content) < 10_000
            assert len(response.json()["fields"]) == 20

    asyncio.run(run())
