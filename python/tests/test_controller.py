"""Stem speaks over a stream from the node: with a dialogue of literal replies, as tor 0.4.9 gives them."""

import socket
import threading

import pytest

PACKAGES = {"BENTO_PACKAGES": "/usr/lib/python3/dist-packages"}
DIALOGUE = {
    "PROTOCOLINFO 1": '250-PROTOCOLINFO 1\r\n250-AUTH METHODS=NULL\r\n250-VERSION Tor="0.4.9.11"\r\n250 OK\r\n',
    "AUTHENTICATE": "250 OK\r\n",
    "SETEVENTS SIGNAL CONF_CHANGED STATUS_SERVER": "250 OK\r\n",
    "GETCONF __owningcontrollerprocess": "250 __OwningControllerProcess\r\n",
    "GETINFO version": "250-version=0.4.9.11\r\n250 OK\r\n",
    "GETINFO circuit-status": "250-circuit-status=1 BUILT $B3180620C1F672D857AEB4446A19DF9161DC2CA3~exit1 PURPOSE=GENERAL\r\n250 OK\r\n",
    "QUIT": "250 closing connection\r\n",
}


def tor(stream) -> None:
    """Answers until the other side leaves."""
    for line in stream.makefile("r", newline="\r\n"):
        stream.sendall(DIALOGUE.get(line.rstrip("\r\n"), f'510 Unrecognized command "{line.split()[0]}"\r\n').encode())


@pytest.fixture
def node(start):
    def begin(source: str):
        node = start(source, "f", environment=PACKAGES)
        node.manual.update({"tor.controller", "net.connect"})
        return node

    pytest.importorskip("stem")
    return begin


def serve(node, name: str, value: object = None) -> None:


    call = node.call()
    assert call["name"] == name, call
    ours, theirs = socket.socketpair()
    threading.Thread(target=tor, args=(ours,), daemon=True).start()
    node.answer(call, value, theirs)
    theirs.close()


def test_a_controller_is_ready_and_can_connect_again(node):
    node = node("""
def f(api):
    with api.tor.controller() as controller:
        assert controller.is_authenticated() and controller.is_localhost()
        assert [circuit.path for circuit in controller.get_circuits()] == [(("B3180620C1F672D857AEB4446A19DF9161DC2CA3", "exit1"),)]
        api.output.write(str(controller.get_version()).encode())
        controller.close()
        assert not controller.is_alive()
        controller.connect(); controller.authenticate()
        assert controller.is_authenticated()
""")
    running = node.invoke("f")
    serve(node, "tor.controller")
    serve(node, "tor.controller")
    assert running.done() == {"outcome": "returned"}, running.logs
    assert running.read() == b"0.4.9.11"


def test_a_script_that_connects_by_itself_does_so_through_the_node(node):
    node = node("""
from stem.control import Controller
def f(api):
    with Controller.from_port() as controller:
        controller.authenticate()
        api.output.write(str(controller.get_version()).encode())
""")
    running = node.invoke("f")
    serve(node, "net.connect", {"address": "127.0.0.1", "port": 9051})
    assert running.done() == {"outcome": "returned"}, running.logs
    assert running.read() == b"0.4.9.11"


def test_what_the_node_refuses_is_an_error_of_stems_own(node):
    node = node("""
import stem
def f(api):
    try: api.tor.controller()
    except stem.SocketError as error: api.output.write(str(error).encode())
""")
    running = node.invoke("f")
    node.deny(node.call(), "refused")
    assert running.done() == {"outcome": "returned"}, running.logs
    assert b"because the test says so" in running.read()
