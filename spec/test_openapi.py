"""The node answers as `openapi.yaml` says: every path, method, status, problem code, header and body, and nothing besides.

`CASES` has one request for each documented answer; that it has all and no other is a test as well.
"""

import copy
import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
import yaml

from conftest import POLICY, ROOT, Answer, Function, Node, Session, ask, bentod, bundle, eventually, head, installed, run, seal

API = yaml.safe_load(Path(__file__).with_name("openapi.yaml").read_text())

# What HTTP itself says of a message, and so no operation does.
HTTP_HEADERS = {"date", "content-type", "content-length", "transfer-encoding", "connection"}

Key = tuple[str, int, str | None]
CASES: dict[Key, Callable[..., Answer]] = {}

HELLO = "def hello(api, name='world'):\n    api.output.write(name.encode())\n"
WAIT = "def wait(api):\n    api.output.write(b'x')\n    api.input.read()\n"
FAIL = "def fail(api):\n    raise ValueError('no')\n"
TAKE = "def take(api):\n    bytearray(1 << 30)\n"
OUTPUT = "0123456789abcdef" * 2
KEEPS = "storage = '1 MiB'\n"
SPIN = "def hello(api): pass\nwhile True: pass\n"


def resolved(part: object) -> object:
    """A part of the document with its `$ref`s followed, except in schemas."""
    while isinstance(part, dict) and "$ref" in part and not part["$ref"].startswith("#/components/schemas/"):
        target: object = API
        for name in part["$ref"].removeprefix("#/").split("/"):
            target = target[name]
        part = target
    return part


def operations() -> dict[str, dict]:
    """All operations by method and path."""
    return {f"{method.upper()} {path}": operation for path, item in API["paths"].items() for method, operation in item.items()}


def documented() -> set[Key]:
    """Every answer that is documented."""
    keys: set[Key] = set()
    for name, operation in operations().items():
        for status, response in operation["responses"].items():
            problem = resolved(response).get("content", {}).get("application/problem+json")
            keys |= {(name, int(status), code) for code in (problem["examples"] if problem else [None])}
    return keys


def validator(schema: dict) -> jsonschema.Draft202012Validator:
    """Checks values against a schema of the document."""
    return jsonschema.Draft202012Validator({**copy.deepcopy(schema), "components": API["components"]})


def case(operation: str, status: int, code: str | None = None) -> Callable:
    """Notes what is asked to see an answer."""

    def note(function: Callable[..., Answer]) -> Callable[..., Answer]:
        assert (operation, status, code) not in CASES
        CASES[operation, status, code] = function
        return function

    return note


INSTALL, STATUS, SHUTDOWN = "POST /v1/functions", "GET /v1/function", "DELETE /v1/function"
RENEW, FETCH, FORGET = "POST /v1/renew", "GET /v1/output/{output}", "DELETE /v1/output/{output}"
FOLLOW = "GET /l/{link}"
INVOKE, RUN = "POST /v1/invoke/{method}", "POST /v1/run/{method}"

# The node.

for path in ("/", "/v1/node", "/v1/policy"):
    case(f"GET {path}", 200)(lambda start, path=path: ask(start.node(), "GET", path))

# Install.


@case(INSTALL, 201)
def _(start):
    return Function(start.node()).install(bundle(HELLO))


@case(INSTALL, 200)
def _(start):
    return installed(start.node(), HELLO).install(bundle(HELLO))


@case(INSTALL, 400, "bad-request")
def _(start):
    assert Function(start.node()).install(bundle(HELLO), **{"Bento-Seal": "bento-seal-x"}).code() == "bad-request"
    return ask(start.node(), "POST", "/v1/functions", {"Bento-Invocation-Digest": "0" * 64}, bundle(HELLO))


@case(INSTALL, 401, "bad-token")
def _(start):
    return Function(start.node()).install(bundle(HELLO), **{"Bento-Shutdown-Digest": "A" * 64})


@case(INSTALL, 403, "not-offered")
def _(start):
    answer = Function(start.node()).install(bundle(HELLO, "scratch = '17 MiB'"))
    assert answer.json()["line"] == {"key": "scratch", "needs": "17 MiB", "offers": "16 MiB"}
    return answer


@case(INSTALL, 403, "depth")
def _(start):
    return Function(start.node()).install(bundle(HELLO), **{"Bento-Depth": "3"})


@case(INSTALL, 403, "spent")
def _(start):
    answer = Function(start.node()).install(bundle(SPIN, "cpu = '1 s'"))
    assert answer.json()["bound"] == "cpu"
    return answer


@case(INSTALL, 409, "token-in-use")
def _(start):
    return installed(start.node(), HELLO).install(bundle(FAIL))


@case(INSTALL, 413, "too-long")
def _(start):
    return Function(start.node()).install(bytes(1_048_577))


@case(INSTALL, 422, "bad-bundle")
def _(start):
    return Function(start.node()).install(b"")


@case(INSTALL, 422, "unloadable")
def _(start):
    return Function(start.node()).install(bundle("import no_such_module\ndef hello(api): pass\n"))


@case(INSTALL, 429, "busy")
def _(start):
    return Function(start.full()).install(bundle(HELLO))


@case(INSTALL, 500, "trouble")
def _(start):
    return Function(start.broken().node).install(bundle(HELLO))


@case(INSTALL, 503, "stopping")
def _(start):
    archive = bundle(HELLO)
    digests = {"Bento-Invocation-Digest": "0" * 64, "Bento-Shutdown-Digest": "1" * 64, "Bento-Seal": seal("")}
    return when_stopping(start.fresh(), head("POST", "/v1/functions", len(archive), digests), archive)


# State and shutdown.


@case(STATUS, 200)
def _(start):
    function = installed(start.node(), HELLO)
    for kind in ("invocation", "shutdown"):
        answer = ask(function.node, "GET", "/v1/function", function.bearer(kind))
        assert answer.status == 200
    return answer


@case(SHUTDOWN, 204)
def _(start):
    return ask(start.node(), "DELETE", "/v1/function", installed(start.node(), HELLO).bearer("shutdown"))


@case(STATUS, 409, "sealed")
def _(start):
    function = installed(start.fresh(), HELLO)
    function.node.start_again()
    answer = ask(function.node, "GET", "/v1/function", function.bearer("shutdown"))
    assert function.invoke("hello").body == b"world"
    assert ask(function.node, "GET", "/v1/function", function.bearer("shutdown")).status == 200
    return answer


@case(RENEW, 200)
def _(start):
    return ask(start.node(), "POST", "/v1/renew", installed(start.node(), HELLO).bearer("shutdown"))


for name in (STATUS, SHUTDOWN, INVOKE, RENEW, FETCH, FORGET):
    verb, target = name.replace("{method}", "hello").replace("{output}", OUTPUT).split()
    wants_shutdown = name in (SHUTDOWN, RENEW)
    wrong = "bento-invoke-x" if name == STATUS else None

    @case(name, 401, "no-token")
    def _(start, verb=verb, target=target):
        assert ask(start.node(), verb, target, {"Authorization": "Basic YTpi"}).code() == "no-token"
        return ask(start.node(), verb, target)

    @case(name, 401, "bad-token")
    def _(start, verb=verb, target=target, wrong=wrong, wants_shutdown=wants_shutdown):
        function = installed(start.node(), HELLO)
        swapped = function.invocation if wants_shutdown else function.shutdown
        return ask(function.node, verb, target, {"Authorization": f"Bearer {wrong or swapped}"})

    @case(name, 401, "unknown-token")
    def _(start, verb=verb, target=target, wants_shutdown=wants_shutdown):
        return ask(start.node(), verb, target, Function(start.node()).bearer("shutdown" if wants_shutdown else "invocation"))


# Detached invocations.


def detach(function: Function, method: str, body: bytes = b"", output: str = OUTPUT) -> Answer:
    """Begins a detached invocation."""
    return ask(function.node, "POST", f"/v1/invoke/{method}", function.bearer() | {"Bento-Detach": output}, body)


def output(function: Function, method: str = "GET", name: str = OUTPUT, query: str = "?wait=30", **headers: str) -> Answer:
    """Asks about an output."""
    return ask(function.node, method, f"/v1/output/{name}{query}", function.bearer() | headers)


@case(INVOKE, 202)
def _(start):
    return detach(installed(start.node(), HELLO, KEEPS), "hello")


@case(FETCH, 200)
def _(start):
    function = installed(start.node(), FAIL, KEEPS)
    assert detach(function, "fail").status == 202
    answer = output(function)
    assert json.loads(answer.headers["bento-outcome"])["error"] == "ValueError: no"
    return answer


@case(FETCH, 202)
def _(start):
    function = installed(start.node(), "import time\ndef rest(api):\n    time.sleep(60)\n", KEEPS)
    assert detach(function, "rest").status == 202
    return output(function, query="")


@case(FETCH, 206)
def _(start):
    function = installed(start.node(), HELLO, KEEPS)
    assert detach(function, "hello").status == 202
    answer = output(function, Range="bytes=1-3")
    assert (answer.body, answer.headers["content-range"]) == (b"orl", "bytes 1-3/5")
    return answer


@case(FETCH, 416, "range")
def _(start):
    function = installed(start.node(), HELLO, KEEPS)
    assert detach(function, "hello").status == 202
    return output(function, Range="bytes=5-")


@case(FORGET, 204)
def _(start):
    function = installed(start.node(), HELLO, KEEPS)
    assert detach(function, "hello").status == 202 and output(function).body == b"world"
    return output(function, "DELETE", query="")


@case(FORGET, 409, "running")
def _(start):
    function = installed(start.node(), "import time\ndef rest(api):\n    time.sleep(60)\n", KEEPS)
    assert detach(function, "rest").status == 202
    return output(function, "DELETE", query="")


for name in (FETCH, FORGET):
    verb = name.split()[0]

    @case(name, 400, "bad-request")
    def _(start, verb=verb):
        return output(installed(start.node(), HELLO, KEEPS), verb, OUTPUT[1:], "")

    @case(name, 404, "no-output")
    def _(start, verb=verb):
        return output(installed(start.node(), HELLO, KEEPS), verb, query="")


# Links.

LINKS = """
def make(api, method):
    api.output.write(api.link.make(method, {"name": "you"}, seconds=60).encode())

def greet(api, name, path=""):
    api.output.type("text/html", "greeting.html")
    api.output.write(name.encode())

def fail(api, name):
    raise ValueError("no")
"""


def link(node: Node, method: str) -> str:
    """The path of a link to a method."""
    return installed(node, LINKS, KEEPS + "calls = ['link.*']").invoke("make", json.dumps({"method": method})).body.decode()


@case(FOLLOW, 200)
def _(start):
    return ask(start.node(), "GET", link(start.node(), "greet"))


@case(FOLLOW, 404, "no-link")
def _(start):
    return ask(start.node(), "GET", "/l/" + "a" * 52)


@case(FOLLOW, 502, "function-failed")
def _(start):
    return ask(start.node(), "GET", link(start.node(), "fail"))


# Invoke.


@case(INVOKE, 200)
def _(start):
    return installed(start.node(), HELLO).invoke("hello", json.dumps({"name": "ä"}))


@case(INVOKE, 400, "bad-request")
def _(start):
    function = installed(start.node(), HELLO)
    assert function.invoke("hello", "[1]").code() == "bad-request"
    assert function.invoke("%ff").code() == "bad-request"
    return function.invoke("hello", "{")


@case(INVOKE, 403, "spent")
def _(start):
    function = installed(start.node(), "def send(api):\n    api.output.write(bytes(10_000))\n", "traffic = '1 KiB'")
    assert function.invoke("send").json()["bound"] == "traffic"
    return function.invoke("send")


@case(INVOKE, 404, "unknown-method")
def _(start):
    return installed(start.node(), HELLO).invoke("nope")


@case(INVOKE, 413, "too-long")
def _(start):
    function = installed(start.node(), HELLO)
    longest = json.dumps({"name": "x" * (16_384 - 12)})
    assert len(longest) == 16_384 and function.invoke("hello", longest).status == 200
    return function.invoke("hello", longest + " x")


@case(INVOKE, 422, "unloadable")
def _(start):
    # Imported again after its process has ended, it fails.
    code = f"import os, time\nassert time.time() < {time.time() + 2}\ndef leave(api):\n    os._exit(1)\n"
    function = installed(start.node(), code)
    assert function.invoke("leave").status == 502
    time.sleep(2)
    return function.invoke("leave")


@case(INVOKE, 429, "busy")
def _(start):
    function = installed(start.node(), WAIT)
    session = Session(function.node)
    session.send(head("POST", "/v1/invoke/wait", 1, function.bearer()))
    session.hear(lambda heard: b"\r\nx\r\n" in heard)
    answer = function.invoke("wait")
    session.send(b"y")
    assert session.answer().outcome() == {"outcome": "returned"}
    return answer


@case(INVOKE, 500, "trouble")
def _(start):
    return start.broken().invoke("leave")


@case(INVOKE, 502, "function-failed")
def _(start):
    answer = installed(start.node(), FAIL).invoke("fail")
    assert answer.json()["detail"] == "ValueError: no" and "line 2" in answer.json()["traceback"]
    return answer


@case(INVOKE, 502, "function-killed")
def _(start):
    answer = installed(start.node(), TAKE).invoke("take")
    assert answer.json()["bound"] == "memory"
    return answer


@case(INVOKE, 503, "stopping")
def _(start):
    function = installed(start.fresh('[limits]\nstop = "3 s"'), WAIT, "invocations = 2")
    # While one runs, the node waits for it, and the function is there.
    running = Session(function.node)
    running.send(head("POST", "/v1/invoke/wait", 1, function.bearer()))
    running.hear(lambda heard: b"\r\nx\r\n" in heard)
    request = head("POST", "/v1/invoke/wait", 0, function.bearer())
    answer = when_stopping(function.node, request[:30], request[30:])
    assert running.answer().outcome() == {"outcome": "killed", "bound": "stop"}
    return answer


# Run.


@case(RUN, 200)
def _(start):
    return run(start.node(), HELLO, "hello")


@case(RUN, 400, "bad-request")
def _(start):
    node, archive = start.node(), bundle(HELLO)
    assert ask(node, "POST", "/v1/run/hello", {}, archive).code() == "bad-request"
    assert ask(node, "POST", "/v1/run/%ff", {"Bento-Bundle-Length": str(len(archive))}, archive).code() == "bad-request"
    assert run(node, HELLO, "hello", arguments="1").code() == "bad-request"
    return ask(node, "POST", "/v1/run/hello", {"Bento-Bundle-Length": str(len(archive) + 1)}, archive)


@case(RUN, 403, "not-offered")
def _(start):
    return run(start.node(), HELLO, "hello", "egress = 'tor'\nconnect = ['accept *:80']")


@case(RUN, 403, "depth")
def _(start):
    archive = bundle(HELLO)
    headers = {"Bento-Bundle-Length": str(len(archive)), "Bento-Depth": "3"}
    return ask(start.node(), "POST", "/v1/run/hello", headers, archive)


@case(RUN, 403, "spent")
def _(start):
    return run(start.node(), SPIN, "hello", "cpu = '1 s'")


@case(RUN, 404, "unknown-method")
def _(start):
    return run(start.node(), HELLO, "nope")


@case(RUN, 413, "too-long")
def _(start):
    assert run(start.node(), HELLO, "hello", arguments=json.dumps({"name": "x" * 17_000})).code() == "too-long"
    return ask(start.node(), "POST", "/v1/run/hello", {"Bento-Bundle-Length": "1048577"})


@case(RUN, 422, "bad-bundle")
def _(start):
    return ask(start.node(), "POST", "/v1/run/hello", {"Bento-Bundle-Length": "10"}, bundle(HELLO))


@case(RUN, 422, "unloadable")
def _(start):
    return run(start.node(), "def hello(api): pass\nraise ValueError\n", "hello")


@case(RUN, 429, "busy")
def _(start):
    return run(start.full(), HELLO, "hello")


@case(RUN, 500, "trouble")
def _(start):
    return run(start.broken().node, HELLO, "hello")


@case(RUN, 502, "function-failed")
def _(start):
    return run(start.node(), FAIL, "fail")


@case(RUN, 502, "function-killed")
def _(start):
    return run(start.node(), TAKE, "take")


@case(RUN, 503, "stopping")
def _(start):
    archive = bundle(HELLO)
    return when_stopping(start.fresh(), head("POST", "/v1/run/hello", len(archive), {"Bento-Bundle-Length": str(len(archive))}), archive)


def when_stopping(node: Node, first: bytes, rest: bytes) -> Answer:
    """The answer to a request that has begun when the node is told to stop, and comes as a whole only then."""
    session = Session(node)
    session.send(first)
    # The node must have read it: a stream on which nothing came yet is closed at once.
    time.sleep(0.3)
    node.process.terminate()
    node.until("stopping")
    # It is logged a moment before it is so.
    time.sleep(0.2)
    session.send(rest)
    return session.answer()


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
            function = installed(self._start(POLICY, f'jail = "{jail}"'), "import os\ndef leave(api):\n    os._exit(1)\n")
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
