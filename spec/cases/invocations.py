"""Invocations, and functions that live for one."""

import json
import time

from cases import FAIL, HELLO, INVOKE, RUN, SPIN, TAKE, WAIT, case
from conftest import Session, ask, bundle, head, installed, run, when_stopping

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
