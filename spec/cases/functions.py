"""The node, and functions from install to shutdown."""

from cases import FAIL, FETCH, FORGET, HELLO, INSTALL, INVOKE, OUTPUT, RENEW, SHUTDOWN, SPIN, STATUS, case
from conftest import Function, ask, bundle, head, installed, seal, when_stopping

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


@case(INSTALL, 507, "full")
def _(start):
    node = start.small_disk()
    installed(node, HELLO)
    node.fill_disk()
    return Function(node).install(bundle(HELLO + "#" * 100_000))


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
