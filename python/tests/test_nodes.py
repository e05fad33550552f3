"""`api.nodes`, `api.link`, `api.seal`: functions that use functions, and what goes wrong there is told."""

import io
import tarfile
import threading
import time
from pathlib import Path

import pytest

from bento.api import BadCall, Refused, RemoteFailed, Unreachable
from bento.nodes import pack
from bento.testing import FakeApi, FakeNode, unsealed

FUNCTIONS = Path(__file__).resolve().parents[2] / "functions"

CODE = b"""
import parts

def shout(api, text="hello"):
    api.output.write(parts.louder(text).encode() + b"".join(api.input).upper())

def echo(api):
    for chunk in api.input:
        api.output.write(chunk)

def fail(api):
    api.output.write(b"a part")
    raise ValueError("no")

def keep(api):
    api.output.write(str(api.store.put("name", api.input)).encode())

def deaf(api):
    api.output.write(b"I do not listen")
"""
MANIFEST = b"""name = "loud"
code = "loud.py"
methods = ["shout", "echo", "fail", "keep", "deaf"]
[needs]
calls = ["store.put"]
storage = "1 MiB"
"""
FILES = {"manifest.toml": MANIFEST, "loud.py": CODE, "parts.py": b"def louder(text):\n    return text.upper() + '!'\n"}


@pytest.fixture
def api():
    return FakeApi(nodes={"one.onion": FakeNode("One"), "two.onion": FakeNode("Two")})


def test_a_function_is_installed_invoked_and_ended_elsewhere(api):
    assert [(node.name, node.address) for node in api.nodes.list()] == [("One", "one.onion"), ("Two", "two.onion")]
    remote = api.nodes.install("one.onion", FILES)
    assert remote.status["name"] == "loud" and remote.invocation_token.startswith("bento-invoke-")
    with remote.invoke("shout", input=b" and you", text="hi") as result:
        assert result.read() == b"HI! AND YOU" and result.outcome() == {"outcome": "returned"}
    again = api.nodes.function("one.onion", remote.invocation_token)
    assert again.invoke("shout").read() == b"HELLO!"
    with pytest.raises(ValueError):
        again.shutdown()
    remote.shutdown()
    with pytest.raises(Refused) as gone:
        remote.invoke("shout").read()
    assert gone.value.code == "unknown-token"
    with pytest.raises(Refused) as gone:
        remote.shutdown()
    assert gone.value.code == "unknown-token"


def test_large_input_and_output_cross_without_either_waiting_for_ever(api):
    remote = api.nodes.install("one.onion", FILES)
    data = bytes(range(256)) * 20_000
    for given in (data, io.BytesIO(data), (data[at : at + 70_000] for at in range(0, len(data), 70_000))):
        with remote.invoke("echo", input=given) as result:
            assert b"".join(result) == data
    assert remote.invoke("deaf", input=data).read() == b"I do not listen"
    assert remote.invoke("keep", input=data[:500_000]).read() == b"500000"


def test_a_function_that_fails_there_is_an_error_here_and_never_a_short_result(api):
    remote = api.nodes.install("one.onion", FILES)
    with pytest.raises(RemoteFailed, match="ValueError: no"):
        remote.invoke("fail").read()
    result = remote.invoke("fail")
    assert result.read(6) == b"a part"
    with pytest.raises(RemoteFailed):
        result.read(1)
    with pytest.raises(RemoteFailed):
        result.read(1)
    assert result.outcome() == {"outcome": "failed", "text": "ValueError: no"}
    with pytest.raises(Refused, match="no method") as refused:
        remote.invoke("nothing").read()
    assert refused.value.code == "unknown-method"
    with pytest.raises(RemoteFailed, match="Full"):
        remote.invoke("keep", input=bytes(2 << 20)).read()


def test_a_node_that_is_gone_is_unreachable(api):
    remote = api.nodes.install("one.onion", FILES)
    node = api._composed._nodes["one.onion"]
    node.before = lambda method, arguments: setattr(node, "down", True)
    with pytest.raises(Unreachable, match="broke"):
        remote.invoke("shout").read()
    for act in (lambda: remote.invoke("shout"), remote.shutdown, lambda: api.nodes.install("one.onion", FILES)):
        with pytest.raises(Unreachable):
            act()
    assert api.nodes.install("two.onion", FILES).invoke("shout").read() == b"HELLO!"
    with pytest.raises(Unreachable):
        api.nodes.install("three.onion", FILES)


def test_an_input_that_fails_is_raised(api):
    def pieces():
        yield b"some"
        raise ZeroDivisionError

    remote = api.nodes.install("one.onion", FILES)
    with pytest.raises(ZeroDivisionError):
        remote.invoke("echo", input=pieces()).read()
    with pytest.raises(TypeError):
        remote.invoke("echo", input="text")


def test_tokens_of_ones_own_are_taken(api):
    tokens = {"invocation": "bento-invoke-mine", "shutdown": "bento-shutdown-mine"}
    remote = api.nodes.install("one.onion", FILES, **tokens)
    assert (remote.invocation_token, remote.shutdown_token) == tuple(tokens.values())


def test_a_bundle_is_plain_tar_and_the_same_each_time(tmp_path):
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
    for name in ("tests/test_it.py", "__pycache__/x.pyc", ".git/config", "data/list.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    archive = pack(tmp_path)
    assert archive == pack({"data/list.txt": b"data/list.txt", **FILES}) and len(archive) % 512 == 0
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as found:
        assert {member.name: found.extractfile(member).read() for member in found} == FILES | {"data/list.txt": b"data/list.txt"}
        assert all(member.isreg() and (member.mode, member.mtime, member.uid) == (0o644, 0, 0) for member in found)
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(ValueError, match="not a regular file"):
        pack(tmp_path)


def test_a_bundle_that_a_node_would_refuse_is_not_sent():
    longest = "n" * 100
    assert pack(FILES | {longest: b"", "a/..b/c.py": b""})
    for wrong in ("../x", "/etc/passwd", "a/../../x", "./x", "a//b", "a/", "", "a b", "a\0b", "ä", longest + "n", "loud.py/x"):
        with pytest.raises(ValueError):
            pack(FILES | {wrong: b""})
    for wrong in ({"loud.py": CODE}, FILES | {"large": bytes(1 << 20)}, FILES | {f"f{number}": b"" for number in range(256)}):
        with pytest.raises(ValueError):
            pack(wrong)


def test_what_is_accepted_goes_to_conclaves_alone():
    conclave, plain = FakeNode(), FakeNode()
    api = FakeApi(nodes={"one.onion/conclave": conclave, "two.onion": plain})
    with pytest.raises(Refused, match="goes with a demand"):
        api.nodes.install("one.onion/conclave", FILES)
    api.nodes.accept("these")
    for address in ("one.onion/conclave", "two.onion"):
        remote = api.nodes.install(address, FILES)
        again = api.nodes.function(address, remote.invocation_token, remote.shutdown_token)
        with again.invoke("shout", input=b"x") as result:
            result.read()
        again.shutdown()
    with pytest.raises(Refused, match="goes with a demand"):
        api.nodes.install("two.onion", FILES, conclave="these")
    assert not conclave.functions and not plain.functions
    api.nodes.accept(None)
    with pytest.raises(Refused, match="goes with a demand"):
        api.nodes.install("one.onion/conclave", FILES)


def test_only_what_the_manifest_asks_for_reaches_other_nodes(tmp_path):
    manifest = tmp_path / "manifest.toml"
    manifest.write_text('name = "x"\nmethods = ["m"]\n[needs]\ncalls = ["nodes.install", "nodes.list", "store.put"]\ninstalls = 1\nstorage = "1 MiB"\n')
    api = FakeApi.from_manifest(manifest, nodes={"one.onion": FakeNode(), "two.onion": FakeNode()})
    remote = api.nodes.install("one.onion", FILES)
    for act in (lambda: remote.invoke("shout"), remote.shutdown, lambda: api.link.make("m", seconds=1), lambda: api.seal("age1x", b"")):
        with pytest.raises(Refused):
            act()
    with pytest.raises(Refused, match="1 functions"):
        api.nodes.install("two.onion", FILES)


def test_a_function_passes_on_only_what_it_has(tmp_path):
    manifest = tmp_path / "manifest.toml"
    manifest.write_text('name = "x"\nmethods = ["m"]\n[needs]\ncalls = ["nodes.*", "store.*"]\ninstalls = 9\nstorage = "1 MiB"\n')
    api = FakeApi.from_manifest(manifest, nodes={"one.onion": FakeNode()})
    api.nodes.install("one.onion", FILES)
    for more, line in (('memory = "65 MiB"', "memory"), ("invocations = 2", "invocations"), ('calls = ["net.connect"]', "net.connect"), ('storage = "1025 KiB"', "storage"), ('lifetime = "1 h"', "lifetime")):
        files = FILES | {"manifest.toml": f'name = "y"\ncode = "loud.py"\nmethods = ["shout"]\n[needs]\n{more}\n'.encode()}
        with pytest.raises(Refused, match=line):
            api.nodes.install("one.onion", files)


def test_links_run_one_method_and_end(api):
    path = api.link.make("get", {"drop": "x"}, seconds=60)
    assert path.startswith("/l/") and (api.links[path].method, api.links[path].arguments) == ("get", {"drop": "x"})
    assert 50 < api.links[path].until - time.time() <= 60 and path != api.link.make("get", seconds=60)
    api.link.end(path)
    assert path not in api.links


def test_what_is_sealed_is_for_its_recipient():
    api = FakeApi()
    data = bytes(range(256)) * 5_000
    with api.seal("age1mine", io.BytesIO(data)) as file:
        sealed = file.read()
    assert unsealed(sealed, "age1mine") == data
    with pytest.raises(ValueError):
        unsealed(sealed, "age1other")
    with pytest.raises(BadCall):
        api.seal("ssh-rsa AAAA", data)


def test_the_type_of_the_output_is_told_before_its_first_byte():
    api = FakeApi()
    api.output.type("text/html; charset=utf-8", "página.html")
    assert (api.kind, api.name) == ("text/html; charset=utf-8", "página.html")
    with pytest.raises(BadCall):
        api.output.type("text/html\r\nSet-Cookie: x")
    api.output.write(b"x")
    with pytest.raises(ValueError):
        api.output.type("text/plain")


def test_the_runtime_composes_through_frames_and_streams(start):
    code = """
def both(api, node):
    files = {"manifest.toml": b'name = "e"\\ncode = "e.py"\\nmethods = ["echo"]\\n', "e.py": b"def echo(api):\\n    for c in api.input:\\n        api.output.write(c)\\n"}
    remote = api.nodes.install(node, files)
    with remote.invoke("echo", input=api.input) as result:
        for chunk in result:
            api.output.write(chunk)
    remote.shutdown()
"""
    other = FakeNode()
    node = start(code, "both", nodes={"one.onion": other})
    running = node.invoke("both", node="one.onion")
    data = bytes(range(256)) * 8_000
    threading.Thread(target=lambda: (running.stream.sendall(data), running.stream.shutdown(1))).start()
    assert running.read() == data and running.done() == {"outcome": "returned"} and not other.functions
    running = node.run("both", node="nowhere.onion")[1]
    assert running["outcome"] == "failed" and running["error"].startswith("Unreachable: ")
