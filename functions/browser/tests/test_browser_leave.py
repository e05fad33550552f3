"""A page that is left in a Dropbox on another node has the size of any other, is only its recipient's, and fails in words."""

import json

import pytest

from bento import pad
from bento.nodes import pack
from bento.testing import FakeApi, FakeNode, unsealed

import browser
from conftest import ROOT

TO = "age1recipient"
DROP = "0123456789abcdef" * 2
NODE = "other.onion"
INVOCATION, SHUTDOWN = "bento-invoke-" + "a" * 52, "bento-shutdown-" + "b" * 52


def left(web, node: FakeNode, bundle: bytes | None = None, **arguments) -> bytes:
    api = FakeApi(pack(ROOT / "functions" / "dropbox") if bundle is None else bundle, hosts={("x.test", 80): web._serve}, nodes={NODE: node})
    given = {"url": "http://x.test/", "node": NODE, "invocation": INVOCATION, "shutdown": SHUTDOWN, "drop": DROP, "to": TO, "expires": 3600}
    return api.run(browser.leave, **given | arguments)


def kept(node: FakeNode) -> bytes:
    api = FakeApi(nodes={NODE: node})
    return api.nodes.function(NODE, INVOCATION).invoke("get", drop=DROP).read()


def test_a_page_is_left_padded_and_sealed(web):
    sizes = set()
    for html in ("<p>short", "<p>" + "long " * 20_000):
        web.files["http://x.test/"] = html
        node = FakeNode()
        told = json.loads(left(web, node))
        sealed = kept(node)
        assert told == {"bytes": len(sealed)}
        payload = pad.unpad(unsealed(sealed, TO))
        header = json.loads(payload.partition(b"\n")[0])
        assert header["outcome"] == "page" and html.rstrip() in payload.decode()
        sizes.add(len(sealed))
    assert len(sizes) == 1


def test_a_page_is_left_in_a_conclave_only_where_that_is_judged(web):
    web.files["http://x.test/"] = "<p>x"
    node = FakeNode()
    api = FakeApi(pack(ROOT / "functions" / "dropbox"), hosts={("x.test", 80): web._serve}, nodes={NODE + "/conclave": node})
    given = {"url": "http://x.test/", "node": NODE + "/conclave", "invocation": INVOCATION, "shutdown": SHUTDOWN, "drop": DROP, "to": TO, "expires": 3600}
    with pytest.raises(PermissionError):
        api.run(browser.leave, **given)
    assert web.asked == [] and not node.functions
    api = FakeApi(pack(ROOT / "functions" / "dropbox"), hosts={("x.test", 80): web._serve}, nodes={NODE + "/conclave": node})
    json.loads(api.run(browser.leave, **given, conclave="which are accepted"))
    assert node.functions


def test_a_page_that_cannot_be_fetched_is_left_as_well(web):
    node = FakeNode()
    left(web, node, url="nowhere://x")
    header = json.loads(pad.unpad(unsealed(kept(node), TO)).partition(b"\n")[0])
    assert header["outcome"] == "error" and "http" in header["error"]


def test_nothing_is_fetched_when_the_other_node_cannot_take_it(web):
    web.files["http://x.test/"] = "<p>x"
    node = FakeNode()
    node.down = True
    with pytest.raises(OSError):
        left(web, node)
    full = FakeNode(functions_max=0)
    with pytest.raises(PermissionError):
        left(web, full)
    with pytest.raises(ValueError):
        left(web, FakeNode(), bucket=0)
    assert web.asked == []


def test_an_end_of_the_other_node_in_between_is_an_error_and_not_silence(web):
    web.files["http://x.test/"] = "<p>x"
    node = FakeNode()

    def gone(method, arguments):
        raise ConnectionError

    node.before = gone
    with pytest.raises(OSError):
        left(web, node)
