"""The node answers as `openapi.yaml` says: every path, method, status, problem code, header and body, and nothing besides.

`CASES` has one request for each documented answer; that it has all and no other is a test as well.
"""

import json
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import jsonschema
import pytest

from cases import API, CASES, HELLO, WAIT, documented, operations, resolved, validator
from conftest import POLICY, ROOT, Function, Node, Session, ask, bentod, bundle, eventually, head, installed, run

for part in ("functions", "kept", "invocations"):
    import_module(f"cases.{part}")

# What HTTP itself says of a message, and so no operation does.
HTTP_HEADERS = {"date", "content-type", "content-length", "transfer-encoding", "connection"}


class Starter:
    """The nodes that cases ask for."""

    def __init__(self, start: Callable[..., Node], directory: Path) -> None:
        self._start = start
        self._directory = directory
        self._nodes: dict[str, object] = {}

    def fresh(self, more: str = "") -> Node:
        """One of its own."""
        return self._start(POLICY, more)

    def fresh_small(self) -> Node:
        """One of its own with room for one function."""
        return self._start(POLICY + "functions = 1\n")

    def small_disk(self) -> Node:
        """One of its own on a disk of 8 MiB."""
        return self._start(POLICY, disk="8m")

    def _once(self, name: str, make: Callable[[], object]) -> object:
        if name not in self._nodes:
            self._nodes[name] = make()
        return self._nodes[name]

    def node(self) -> Node:
        """One with room."""
        return self._once("node", self.fresh)

    def full(self) -> Node:
        """One with as many functions as it takes."""

        def make() -> Node:
            node = self.fresh_small()
            installed(node, HELLO)
            return node

        return self._once("full", make)

    def broken(self) -> Function:
        """A function without a process, on a node that cannot start one any more."""

        def make() -> Function:
            broken, jail = self._directory / "broken", self._directory / "jail"
            jail.write_text(f"#!/bin/sh\n[ -e '{broken}' ] && exit 1\nexec '{bentod().with_name('bento-jail')}' \"$@\"\n")
            jail.chmod(0o755)
            # No jail is ready that could still be used.
            node = self._start(POLICY, f'jail = "{jail}"\n[limits]\nready = 0')
            function = installed(node, "import os\ndef leave(api):\n    os._exit(1)\n")
            assert function.invoke("leave").status == 502
            broken.touch()
            return function

        return self._once("broken", make)


@pytest.fixture(scope="module")
def starter(start: Callable[..., Node], tmp_path_factory: pytest.TempPathFactory) -> Starter:
    """The nodes of this module."""
    return Starter(start, tmp_path_factory.mktemp("jail"))


@pytest.mark.parametrize("key", CASES, ids=lambda key: " ".join(str(part) for part in key if part))
def test_a_documented_answer_comes_and_is_as_documented(starter, key):
    operation, status, code = key
    answer = CASES[key](starter)
    assert answer.status == status, answer
    response = resolved(operations()[operation]["responses"][str(status)])
    headers = {name.lower(): resolved(header) for name, header in response.get("headers", {}).items()}
    for name, header in headers.items():
        assert name in answer.headers or not header.get("required"), name
        if name in answer.headers:
            value = answer.headers[name]
            validator(header["schema"]).validate(int(value) if header["schema"].get("type") == "integer" else value)
    assert set(answer.headers) - HTTP_HEADERS <= set(headers), answer.headers
    content = response.get("content")
    if content is None:
        assert answer.body == b""
        return
    [(kind, body)] = content.items()
    assert answer.headers["content-type"] == kind
    if kind.endswith("json"):
        validator(body["schema"]).validate(answer.json())
    if kind.startswith("application/problem"):
        assert answer.json()["status"] == status and answer.code() == code


def test_each_documented_answer_has_a_case_and_no_case_is_undocumented():
    assert set(CASES) == documented()


def test_there_is_no_other_path_and_no_other_method(starter):
    routes = re.findall(r'\.route\("([^"]+)"', (ROOT / "crates/bento-node/src/http.rs").read_text())
    # What may follow a link is told with the link.
    routes.remove("/l/{link}/{*path}")
    assert sorted(routes) == sorted(API["paths"])
    for path, item in API["paths"].items():
        answer = ask(starter.node(), "PATCH", path.replace("{method}", "hello"))
        assert (answer.status, answer.code()) == (405, "method")
        methods = {method.upper() for method in item} | ({"HEAD"} if "get" in item else set())
        assert set(answer.headers["allow"].split(",")) == methods, path
        validator({"$ref": "#/components/schemas/Problem"}).validate(answer.json())
    for path in ("/v1", "/v1/", "/v1/nodes", "/v1/node/", "/v1/functions/1", "/v1/invoke", "/v1/invoke/", "/v1/invoke/a/b", "/v2/node", "/status", "/index.html"):
        answer = ask(starter.node(), "GET", path)
        assert (answer.status, answer.code()) == (404, "not-found"), path


def test_what_is_no_request_is_answered_without_a_body(starter):
    for request, status in [
        (b"garbage\r\n\r\n", 400),
        (head("GET", "/", None, {"X": "x" * 100_000}), 431),
        (head("GET", "/", None, {f"X{number}": "x" for number in range(120)}), 431),
    ]:
        session = Session(starter.node())
        session.send(request)
        answer = session.answer()
        assert (answer.status, answer.body) == (status, b"")
    fits = ask(starter.node(), "GET", "/", {"X": "x" * 46_000} | {f"X{number}": "x" for number in range(80)})
    assert fits.status == 200
    assert ask(starter.node(), "HEAD", "/v1/node").status == 200


def test_output_has_its_three_forms(starter):
    code = """
def declared(api, length, written, fail=False):
    api.output.length(length)
    api.output.write(bytes(written))
    if fail:
        raise ValueError

def open(api, fail=False):
    api.output.write(b'some')
    if fail:
        raise ValueError('ä')

def empty(api):
    pass
"""
    function = installed(starter.node(), code)
    invoke = lambda method, **arguments: function.invoke(method, json.dumps(arguments))  # noqa: E731
    outcome = validator({"$ref": "#/components/schemas/Outcome"})

    answer = invoke("declared", length=100_000, written=100_000)
    assert (answer.headers["content-length"], len(answer.body), answer.whole, answer.trailers) == ("100000", 100_000, True, {})
    assert "trailer" not in answer.headers
    for wrong in ({"length": 100_000, "written": 90_000}, {"length": 100_000, "written": 100_000, "fail": True}):
        answer = invoke("declared", **wrong)
        assert (answer.status, answer.whole) == (200, False)

    answer = invoke("open")
    assert (answer.body, answer.headers["trailer"], answer.outcome()) == (b"some", "bento-outcome", {"outcome": "returned"})
    assert "content-length" not in answer.headers
    answer = invoke("open", fail=True)
    outcome.validate(answer.outcome())
    assert answer.body == b"some" and answer.whole and answer.outcome()["error"] == "ValueError: ä"
    assert answer.trailers["bento-outcome"].isascii()

    answer = invoke("empty")
    assert (answer.body, answer.headers["content-length"], answer.trailers) == (b"", "0", {})
    assert "trailer" not in answer.headers

    # Who does not ask for trailers gets none.
    session = Session(starter.node())
    session.send(head("POST", "/v1/invoke/open", 0, function.bearer()).replace(b"TE: trailers\r\n", b"").replace(b"close, te", b"close"))
    answer = session.answer()
    assert (answer.body, answer.whole, answer.trailers) == (b"some", True, {})


def test_a_shutdown_ends_what_runs_and_its_tokens(starter):
    function = installed(starter.node(), WAIT)
    session = Session(function.node)
    session.send(head("POST", "/v1/invoke/wait", 1, function.bearer()))
    session.hear(lambda heard: b"\r\nx\r\n" in heard)
    assert ask(function.node, "DELETE", "/v1/function", function.bearer("shutdown")).status == 204
    assert session.answer().outcome() == {"outcome": "killed", "bound": "shutdown"}
    assert ask(function.node, "GET", "/v1/function", function.bearer()).code() == "unknown-token"


def test_a_run_ends_when_its_client_leaves(starter):
    node = starter.fresh_small()
    archive = bundle("import time\ndef wait(api):\n    api.output.write(b'x')\n    time.sleep(600)\n")
    session = Session(node)
    session.send(head("POST", "/v1/run/wait", len(archive), {"Bento-Bundle-Length": str(len(archive))}) + archive)
    session.hear(lambda heard: b"\r\nx\r\n" in heard)
    assert run(node, HELLO, "hello").code() == "busy"
    session.stream.close()
    eventually(lambda: run(node, HELLO, "hello").status == 200)


def test_the_document_is_whole():
    assert API["openapi"].startswith("3.1.")
    names = [operation["operationId"] for operation in operations().values()]
    assert len(set(names)) == len(names)
    used: set[str] = set()

    def walk(part: object) -> None:
        if isinstance(part, dict):
            if "$ref" in part:
                used.add(part["$ref"])
                target: object = API
                for name in part["$ref"].removeprefix("#/").split("/"):
                    target = target[name]
            for one in part.values():
                walk(one)
        elif isinstance(part, list):
            for one in part:
                walk(one)

    walk(API)
    parts = {f"#/components/{kind}/{name}" for kind, group in API["components"].items() if kind != "securitySchemes" for name in group}
    assert parts <= used, parts - used
    for name, schema in API["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(schema)
        for example in schema.get("examples", []):
            validator(schema).validate(example)
    for name, operation in operations().items():
        placeholders = set(re.findall(r"{(\w+)}", name))
        parameters = [resolved(parameter) for parameter in operation.get("parameters", [])]
        assert {one["name"] for one in parameters if one["in"] == "path"} == placeholders
        for scheme in operation.get("security", []):
            assert set(scheme) <= set(API["components"]["securitySchemes"])


def test_the_examples_are_as_their_schemas_say():
    seen = 0
    for operation in operations().values():
        for status, response in operation["responses"].items():
            response = resolved(response)
            bodies = [*response.get("content", {}).values(), *response.get("x-trailers", {}).values()]
            for body in bodies:
                for code, example in body.get("examples", {}).items():
                    value = resolved(example)["value"]
                    validator(body["schema"]).validate(value)
                    seen += 1
                    if isinstance(value, dict) and "type" in value:
                        assert (value["type"], str(value["status"])) == (f"urn:bento:problem:{code}", status)
    assert seen > 40
