"""Detached invocations, and links."""

import json

from cases import FAIL, FETCH, FOLLOW, FORGET, HELLO, INVOKE, KEEPS, OUTPUT, case
from conftest import Answer, Function, Node, ask, installed

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


@case(INVOKE, 507, "full")
def _(start):
    function = installed(start.small_disk(), HELLO, KEEPS)
    function.node.fill_disk()
    return detach(function, "hello")


@case(INVOKE, 409, "rolled-back")
def _(start):
    function = installed(start.node(), "def put(api):\n    api.store.put('n', b'x')\n", KEEPS + "calls = ['store.*']\n")
    assert function.invoke("put").status == 200
    changes = ask(function.node, "GET", "/v1/function", function.bearer()).json()["changes"]
    assert changes > 0

    def seen(count: object) -> Answer:
        return ask(function.node, "POST", "/v1/invoke/put", function.bearer() | {"Bento-Seen": str(count)}, b"")

    assert seen(changes).status == 200
    assert seen("x").status == 400
    return seen(changes + 2)


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
