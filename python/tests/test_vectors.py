"""The golden files in `spec/vectors`, which the Rust tests read as well; and `FakeApi.from_manifest`, which decides by them."""

import ipaddress
import json
import socket
from pathlib import Path

import pytest

from bento import api, exit_policy, frames, pad, runtime
from bento.testing import FakeApi

VECTORS = Path(__file__).resolve().parents[2] / "spec" / "vectors"


def read(name: str) -> dict:
    """A file of vectors."""
    return json.loads((VECTORS / f"{name}.json").read_text())


def test_each_file_says_what_it_is():
    names = {path.stem for path in VECTORS.iterdir()}
    assert names == {"admit", "coverage", "drop", "exit-policy", "frames", "padded", "syscalls", "tokens", "units"}
    for name in names:
        assert len(read(name)["what"]) > 40, name


# Padded results.


def test_totals_are_the_smallest_that_hold_the_payload():
    vectors = read("padded")
    for case in vectors["sizes"]:
        if case["total"] is None:
            with pytest.raises(pad.TooLarge):
                pad.size(case["payload"], case["buckets"])
        else:
            assert pad.size(case["payload"], case["buckets"]) == case["total"]
    for bucket in vectors["too_small_buckets"]:
        with pytest.raises(ValueError):
            pad.size(0, bucket)


def test_results_are_padded_to_the_byte():
    for case in read("padded")["results"]:
        payload, padded = bytes.fromhex(case["payload"]), bytes.fromhex(case["padded"])
        assert pad.pad(payload, case["buckets"]) == padded
        assert pad.unpad(padded) == payload
        fake = FakeApi()
        assert pad.write_padded(fake.output, payload, case["buckets"]) == len(padded)
        assert (fake.written, fake.declared) == (padded, len(padded))


@pytest.mark.parametrize("case", read("padded")["wrong"], ids=lambda case: case["name"])
def test_what_is_no_padded_result_is_refused(case):
    with pytest.raises(ValueError):
        pad.unpad(bytes.fromhex(case["padded"]))


# Frames.


def test_frames_are_read_and_written_to_the_byte():
    vectors = read("frames")
    for case in vectors["to_function"] + vectors["from_function"]:
        frame = frames.decode(case["frame"].encode())
        assert frame == json.loads(case["frame"])
        assert case["means"] in frame
        assert frames.encode(frame) == case["frame"].encode()
    spaced = vectors["spaced"]
    assert frames.encode(frames.decode(spaced["text"].encode())) == spaced["frame"].encode()


@pytest.mark.parametrize("text", read("frames")["no_frames"])
def test_what_is_no_frame_is_refused(text):
    with pytest.raises(ValueError):
        frames.decode(text.encode())


def test_the_runtime_says_its_own_frames_as_the_vectors_have_them(start):
    for case in read("frames")["ends"]:
        _, end = start(case["code"] + "\n", "m").run("m")
        assert {"done": 1, **end} == case["frame"], case["code"]
    written = {case["frame"] for case in read("frames")["from_function"]}
    assert runtime._killed(1, "memory").decode() in written
    assert runtime._failed(1, "ValueError: no", "").decode() in written


def test_arguments_reach_the_method_as_they_are(start):
    node = start("import json\ndef hello(api, **arguments):\n    api.output.write(json.dumps(arguments).encode())\n", "hello")
    for case in read("frames")["to_function"]:
        frame = json.loads(case["frame"])
        if case["means"] == "invoke":
            output, end = node.run("hello", **frame["arguments"])
            assert json.loads(output) == frame["arguments"] and end == {"outcome": "returned"}


def test_each_kind_of_error_raises_its_exception():
    for case in read("frames")["answers"]:
        error = api.trouble(case["kind"], "no", case.get("code"))
        assert getattr(error, "code", None) == case.get("code")
        assert type(error).__name__ == case["raises"]
        assert case["also"] in {kind.__name__ for kind in type(error).__mro__}


# Exit policies.


def test_rules_are_rules_and_others_are_told_by_their_wrong_part():
    vectors = read("exit-policy")
    for case in vectors["rules"]:
        rule, written = exit_policy.Rule(case["text"]), exit_policy.Rule(case["written"])
        assert (rule.accept, rule._block, rule._ports) == (written.accept, written._block, written._ports), case
    for case in vectors["no_rules"]:
        with pytest.raises(exit_policy.RuleError) as raised:
            exit_policy.Rule(case["text"])
        assert raised.value.part == case["because"], case["text"]


def test_private_addresses_are_known():
    vectors = read("exit-policy")
    for address in vectors["private"]:
        assert exit_policy.is_private(ipaddress.ip_address(address)), address
    for address in vectors["public"]:
        assert not exit_policy.is_private(ipaddress.ip_address(address)), address


def manifest(directory: Path, calls: list[str], rules: list[str]) -> Path:
    """A manifest that asks for these."""
    path = directory / "manifest.toml"
    needs = f"calls = {json.dumps(calls)}\nconnect = {json.dumps(rules)}\n"
    path.write_text(f'name = "test"\nmethods = ["hello"]\n[needs]\n{needs}')
    return path


@pytest.mark.parametrize("case", read("exit-policy")["decisions"], ids=lambda case: ", ".join(case["policy"]) or "nothing")
def test_a_fake_api_connects_where_the_manifest_accepts_and_nowhere_else(case, tmp_path):
    path = manifest(tmp_path, ["net.connect"], case["policy"])
    destinations = [tuple(one) for one in case["accepted"] + case["rejected"]]
    fake = FakeApi.from_manifest(path, hosts={one: lambda stream: None for one in destinations})
    for host, port in case["accepted"]:
        fake.connect(host, port).close()
    for host, port in case["rejected"]:
        with pytest.raises(api.Refused):
            fake.connect(host, port)
    assert fake.connections == destinations


def test_a_fake_api_refuses_what_the_manifest_does_not_call(tmp_path):
    hosts = {("example.org", 443): lambda stream: None}
    for calls, is_granted in ((["net.connect"], True), (["net.*"], True), (["*"], True), ([], False)):
        manifest(tmp_path, calls, ["accept *:443"])
        fake = FakeApi.from_manifest(tmp_path, hosts=hosts)
        if is_granted:
            fake.connect("example.org", 443).close()
        else:
            with pytest.raises(api.Refused):
                fake.connect("example.org", 443)
    (tmp_path / "manifest.toml").write_text('name = "test"\nmethods = ["hello"]\n')
    with pytest.raises(api.Refused):
        FakeApi.from_manifest(tmp_path, hosts=hosts).connect("example.org", 443)


def test_names_are_judged_by_their_addresses(tmp_path, web):
    port = web[1]
    # A name that the test plays is a public one, wherever its server is.
    path = manifest(tmp_path, ["net.connect"], [f"accept *:{port}"])
    fake = FakeApi.from_manifest(path, hosts={("example.org", port): web})
    fake.connect("example.org", port).close()
    for host, other in (("example.org", port + 1), ("localhost", port), (web[0], port)):
        with pytest.raises(api.Refused):
            fake.connect(host, other)
    # Another is resolved, and what it resolves to is judged.
    path = manifest(tmp_path, ["net.connect"], [f"accept 127.0.0.1:{port}"])
    fake = FakeApi.from_manifest(path)
    with fake.connect("localhost", port) as stream:
        assert isinstance(stream, socket.socket)
    with pytest.raises(api.Refused):
        fake.connect("127.0.0.2", port)


def test_the_manifest_and_what_is_allowed_both_count(tmp_path):
    path = manifest(tmp_path, ["net.connect"], ["accept *:443"])
    hosts = {("a.test", 443): lambda stream: None, ("b.test", 443): lambda stream: None}
    fake = FakeApi.from_manifest(path, hosts=hosts, allow=[("a.test", 443), ("b.test", 80)])
    fake.connect("a.test", 443).close()
    for host, port in (("b.test", 443), ("b.test", 80)):
        with pytest.raises(api.Refused):
            fake.connect(host, port)


def test_the_manifests_of_the_standard_functions_are_read():
    for path in (VECTORS.parents[1] / "functions").glob("*/manifest.toml"):
        FakeApi.from_manifest(path)
