"""The OpenAPI document: typed, and what a program makes of it gives no 500 and no surprise."""

import pytest
from running_server import RunningServer

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
hypothesis = pytest.importorskip("hypothesis")

EXAMPLES = 12  # requests of each kind to each endpoint
NOT_ASKED = ("/metrics",)


def document_of(server: RunningServer) -> dict:
    return server.ask("GET", "/openapi.json")[1]


def test_every_endpoint_is_typed(bars_server):
    paths = document_of(bars_server)["paths"]
    assert {
        "/predict", "/v1/decisions", "/v1/systemone", "/v1/completions", "/v1/chat/completions",
        "/v1/score", "/v1/models", "/", "/healthz", "/readyz", "/metrics",
    } <= set(paths)  # fmt: skip
    for path, methods in paths.items():
        for method, facts in methods.items():
            assert facts["description"], path
            if method == "post":
                schema = facts["requestBody"]["content"]["application/json"]["schema"]
                assert "$ref" in schema, path
            if path not in NOT_ASKED:
                told = facts["responses"]["200"]["content"]["application/json"]["schema"]
                assert told, path
            for status in ("401", "413", "422", "429"):
                error = facts["responses"][status]["content"]["application/json"]["schema"]
                assert error["$ref"].endswith("ErrorAnswer"), path


def test_the_documents_page_is_there(bars_server):
    status, text, _ = bars_server.ask("GET", "/docs")
    assert status == 200 and "swagger" in text.lower()


@pytest.mark.parametrize("kind", ["bars", "instructions"])
def test_what_the_document_allows_is_answered(server_of, kind):
    server = server_of(kind, "--max_new_tokens", 8)
    schema = schemathesis.openapi.from_url(f"http://localhost:{server.port}/openapi.json")
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.path in NOT_ASKED or operation.path.startswith("/model"):
            continue
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):

            @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
            @hypothesis.settings(
                max_examples=EXAMPLES,
                suppress_health_check=list(hypothesis.HealthCheck),
                phases=[hypothesis.Phase.generate],
            )
            def ask(case):
                answer = case.call(headers={"Host": "localhost"})
                told = f"{case.method} {case.path} {case.body!r}: {answer.status_code}"
                assert answer.status_code < 500, told
                if answer.status_code >= 400:
                    assert set(answer.json()["error"]) == {"message", "type", "param"}, told
                elif "event-stream" not in answer.headers["content-type"][0]:
                    case.validate_response(
                        answer, checks=[schemathesis.checks.response_schema_conformance]
                    )

            try:
                ask()
            except hypothesis.errors.Unsatisfiable:  # nothing of this kind can be made
                continue
    assert server.ask("GET", "/healthz")[0] == 200
