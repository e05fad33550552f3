"""`api.tor`, as far as it can be seen without a Tor: what a function gets, and what it cannot touch of another."""

import base64
import socket
import threading

import pytest
from bento.api import BadCall, Busy, Missing, Refused, Timeout, Unreachable
from bento.testing import FakeApi, FakeTor
from bento.testing import tor as fake
from bento.tor import Relay



def shout(stream: socket.socket) -> None:
    if word := stream.recv(100):
        stream.sendall(word.upper())


ECHO = {("example.org", 80): shout}


def said(stream: socket.socket, word: bytes) -> bytes:
    with stream:
        stream.sendall(word)
        return stream.recv(100)


def test_relays_are_told_and_their_exit_policies_read():
    api = FakeApi(tor=FakeTor([fake.relay(0, exit="accept 80,443,8000-8100"), fake.relay(1, exit="reject 25"), fake.relay(2, exit=None, country="de")]))
    web, most, none = api.tor.relays()
    assert [web.exits_to(port) for port in (80, 8050, 8101, 25)] == [True, True, False, False]
    assert most.exits_to(80) and not most.exits_to(25) and not none.exits_to(80)
    assert (none.country, web.country, "Exit" in web.flags) == ("de", None, True)
    assert api.tor.consensus()["params"] == {}


def test_a_circuit_goes_where_it_is_told_and_connects_through_itself():
    api = FakeApi(hosts=ECHO)
    path = [relay["fingerprint"] for relay in api.session.tor.relays[:3]]
    with api.tor.circuit(path) as circuit, api.tor.events() as events:
        assert circuit.path == path and said(circuit.connect("example.org", 80), b"hello") == b"HELLO"
        assert [events.next(5)["status"] for _ in range(2)] == ["new", "connected"]
        circuit.extend(path[0])
        assert len(circuit.path) == 4 and events.next(5)["path"] == circuit.path
        with pytest.raises(Timeout):
            events.next(0.01)
    with pytest.raises(Missing):
        circuit.connect("example.org", 80)
    circuit.close()


def test_a_circuit_is_chosen_among_those_that_fit_or_there_is_none():
    relays = [fake.relay(number, country="de" if number == 5 else None, exit="accept 443" if number > 3 else None) for number in range(7)]
    api = FakeApi(tor=FakeTor(relays))
    named = {relay["fingerprint"]: number for number, relay in enumerate(relays)}
    assert named[api.tor.circuit(country="de").path[-1]] == 5
    assert named[api.tor.circuit(exit_port=443, exclude=[relays[4]["fingerprint"], relays[5]["fingerprint"]]).path[-1]] == 6
    assert len(set(api.tor.circuit(length=5).path)) == 5
    for wanted in ({"country": "fr"}, {"exit_port": 80}, {"flags": ["Authority"]}, {"length": 8}):
        with pytest.raises(Missing):
            api.tor.circuit(**wanted)
    for wrong in (["nick"], [], ["0" * 40, "0" * 40], ["0" * 40]):
        with pytest.raises((BadCall, Missing)):
            api.tor.circuit(wrong)


def test_an_onion_service_takes_clients_until_it_is_closed():
    api = FakeApi()
    with api.tor.events() as events, api.tor.onion_service([80, 443]) as service:
        assert service.address.endswith(".onion") and len(service.address) == 62 and service.key.startswith("ED25519-V3:")
        assert events.next(5)["status"] == "uploaded"
        visitor = api.session.tor.visit(service.address, 443)
        stream, port = service.accept(5)
        with stream:
            stream.sendall(b"welcome")
        assert (port, visitor.recv(100), visitor.recv(100)) == (443, b"welcome", b"")
        with pytest.raises(ConnectionRefusedError):
            api.session.tor.visit(service.address, 81)
        waiting: list[BaseException] = []
        waiter = threading.Thread(target=lambda: waiting.append(pytest.raises(Missing, service.accept)))
        waiter.start()
        key = service.key
    waiter.join(5)
    assert len(waiting) == 1
    with pytest.raises(ConnectionRefusedError):
        api.session.tor.visit(service.address, 80)
    assert api.tor.onion_service(80, key, discard_key=True).address == service.address
    with pytest.raises(BadCall):
        api.tor.onion_service(80, "RSA1024:abc")


def test_accept_is_asked_again_where_nobody_came(monkeypatch):
    monkeypatch.setattr(fake, "ACCEPT_SECONDS", 0.01)
    api = FakeApi()
    service = api.tor.onion_service(80)
    with pytest.raises(Timeout):
        service.accept(0.05)
    api.session.tor.visit(service.address, 80)
    assert service.accept(5)[1] == 80


def test_two_functions_of_one_tor_have_nothing_of_each_other():
    tor = FakeTor()
    one, other = FakeApi(tor=tor), FakeApi(tor=tor)
    events = other.tor.events()
    circuit, service = one.tor.circuit(), one.tor.onion_service(80)
    for name, arguments in (
        ("tor.extend", {"circuit": circuit.number, "relays": [tor.relays[0]["fingerprint"]]}),
        ("tor.circuit_connect", {"circuit": circuit.number, "host": "example.org", "port": 80}),
        ("tor.close_circuit", {"circuit": circuit.number}),
        ("tor.accept", {"service": service.number}),
        ("tor.close_service", {"service": service.number}),
    ):
        with pytest.raises(Missing):
            other._ask(name, arguments).result()
    with pytest.raises(Timeout):
        events.next(0.01)
    with pytest.raises(Busy):
        other.tor.onion_service(80, service.key)
    # But as anybody, it may be a client.
    visitor = other.tor.connect(service.address, 80)
    stream, _ = service.accept(5)
    stream.sendall(b"welcome")
    assert visitor.recv(100) == b"welcome"


def test_what_the_manifest_does_not_ask_for_is_refused(tmp_path):
    manifest = tmp_path / "manifest.toml"
    needs = 'calls = ["tor.circuit", "tor.circuit_connect", "tor.connect"]\ncircuits = 1\nconnect = ["accept *:80"]\n'
    manifest.write_text(f'name = "x"\nmethods = ["m"]\n[needs]\n{needs}')
    api = FakeApi.from_manifest(manifest, hosts=ECHO | {("a" * 56 + ".onion", port): ECHO["example.org", 80] for port in (80, 81)})
    circuit = api.tor.circuit()
    assert said(circuit.connect("example.org", 80), b"a") == b"A"
    assert said(api.tor.connect("a" * 56 + ".onion", 80), b"b") == b"B"
    for refused in (
        lambda: api.tor.circuit(),
        lambda: api.tor.circuit([api.session.tor.relays[0]["fingerprint"]]),
        lambda: circuit.connect("example.org", 81),
        lambda: api.tor.connect("a" * 56 + ".onion", 81),
        lambda: circuit.connect("a" * 56 + ".onion", 80),
        lambda: api.tor.onion_service(80),
        lambda: api.tor.relays(),
        lambda: api.tor.events(),
    ):
        with pytest.raises((Refused, Missing)) as caught:
            refused()
        assert caught.type is Refused


def test_descriptors_are_fetched_and_published():
    api = FakeApi(tor=FakeTor(descriptors={"a" * 56 + ".onion": "hs-descriptor 3\n"}))
    assert api.tor.descriptor("a" * 56 + ".onion") == "hs-descriptor 3\n"
    with pytest.raises(Missing):
        api.tor.descriptor("b" * 56 + ".onion")
    hsdir = api.session.tor.relays[2]["fingerprint"]
    published = api.tor.publish("b" * 56 + ".onion", "hs-descriptor 3\nmore\n", [hsdir, "0" * 40])
    assert (published.took, published.refused, published.silent) == ([hsdir], [], ["0" * 40])
    assert api.tor.descriptor("b" * 56 + ".onion") == "hs-descriptor 3\nmore\n"
    with pytest.raises(BadCall):
        api.tor.publish("b" * 56 + ".onion", "anything\n")
    with pytest.raises(ValueError, match="at most"):
        api.tor.publish("b" * 56 + ".onion", "x" * 50_001)


def test_when_tor_ends_circuits_are_lost_and_onion_services_come_back():
    api = FakeApi(hosts=ECHO)
    circuit, service = api.tor.circuit(), api.tor.onion_service(80)
    stream = circuit.connect("example.org", 80)
    with api.tor.events() as events:
        api.session.tor.stop()
        assert events.next(5) == {"event": "circuit", "circuit": circuit.number, "status": "closed", "reason": "TOR_LOST"}
        assert events.next(5) == {"event": "tor", "status": "lost"} and stream.recv(1) == b""
        with pytest.raises(Unreachable):
            api.tor.circuit()
        api.session.tor.start()
        assert [events.next(5)["status"] for _ in range(2)] == ["back", "uploaded"]
    api.session.tor.visit(service.address, 80)
    assert service.accept(5)[1] == 80


def test_what_one_invocation_made_the_next_one_finds():
    api = FakeApi()
    service = api.tor.onion_service(80)
    api.next().tor.circuit()
    assert len(api.session.circuits) == 1
    api.session.close()
    assert not api.session.circuits and not api.session.services
    assert base64.b64decode(service.key.partition(":")[2])
    assert Relay(fake.relay(1)).exits_to(1)
