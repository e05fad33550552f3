"""What `policy.md` says in tables is what the programs do."""

import ipaddress
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from conftest import ROOT, ask, bentod, run

sys.path.insert(0, str(ROOT / "python"))

TEXT = Path(__file__).with_name("policy.md").read_text()


def rows(first: str) -> list[list[str]]:
    """The rows of the table whose head begins so."""
    lines = TEXT[TEXT.index(f"| {first} |") :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_list_of_private_addresses_is_the_one_in_use():
    from bento import exit_policy

    listed = []
    for block, *_ in rows("block"):
        network = ipaddress.ip_network(block.split("`")[1])
        if str(network) != "::/8":
            listed.append((exit_policy.number(network.network_address), exit_policy.number(network.broadcast_address)))
    # The two halves of ::/8 come first in the code.
    assert sorted(listed) == sorted(exit_policy.PRIVATE[2:])
    source = (ROOT / "crates/bento-proto/src/address.rs").read_text()
    four = {f"{a}.{b}.{c}.{d}/{prefix}" for a, b, c, d, prefix in re.findall(r" v4\((\d+), (\d+), (\d+), (\d+), (\d+)\),", source)}
    six = {f"{ipaddress.IPv6Address(int(top.replace('_', ''), 16) << 96)}/{prefix}" for top, prefix in re.findall(r" v6\(0x(\w+), (\d+)\),", source)}
    assert len(four) + len(six) == len(listed)
    assert {(exit_policy.number(net.network_address), exit_policy.number(net.broadcast_address)) for net in map(ipaddress.ip_network, four | six)} == set(listed)


def test_what_is_left_out_has_the_value_of_the_table(start):
    lines = rows("key | means")
    policy = "[offers]\n" + "".join(f"{key.strip('`')} = {offered.strip('`')}\n" for key, _, _, _, _, offered, _ in lines)
    # Without Tor no node offers it, so that one line is told apart by the error.
    written = start(policy.replace('["tor"]', '["direct"]') + "functions = 50\nfunctions_per_day = 1000\ndepth = 2\n")
    left_out = start('[offers]\negress = ["direct"]\n')
    assert ask(written, "GET", "/v1/policy").body == ask(left_out, "GET", "/v1/policy").body
    assert tomllib.loads(policy)["offers"]["egress"] == ["tor"]

    # The golden file, which the Rust tests read, has a case for each amount that a manifest leaves out.
    cases = json.loads(Path(__file__).with_name("vectors").joinpath("admit.json").read_text())["cases"]
    told = {case["refused"]["key"]: case["refused"]["needs"] for case in cases if "left out" in case["name"]}
    needs = {key.strip("`"): needed.strip("`") for key, _, _, needed, _, _, _ in lines}
    assert told == {key: needs[key].strip('"') for key in needs if key not in ("image", "calls", "egress", "connect", "syscalls", "storage", "keep_awake", "installs", "circuits", "onion_services")}
    # Of these a manifest that leaves them out asks for nothing.
    assert [needs[key] for key in ("storage", "keep_awake", "installs", "circuits", "onion_services")] == ['"0 B"', "false", "0", "0", "0"]
    # All of them written out are within what a policy offers by itself.
    full = "".join(f"{key} = {value}\n" for key, value in needs.items())
    assert run(left_out, "def hello(api):\n    api.output.write(b'x')\n", "hello", full).status == 200


def vectors(name: str) -> dict:
    """A golden file, which the Rust tests read as well."""
    return json.loads(Path(__file__).with_name("vectors").joinpath(f"{name}.json").read_text())


def test_the_lists_of_system_calls_are_the_golden_ones():
    told = TEXT[TEXT.index("## System calls") :].split("\n\n")
    golden = vectors("syscalls")
    for title, names in (("**The default**", "default"), ("**Never open**", "never")):
        [place] = [index for index, part in enumerate(told) if part.startswith(title)]
        assert re.findall(r"`(\w+)`", told[place + 1]) == golden[names]
    assert not set(golden["default"]) & set(golden["never"])
    # What both, either or one alone of two lists has, by Python's own sets.
    default = set(golden["default"])

    def opened(words: list[str]) -> set[str]:
        assert words[0] == "default"
        return (default | {word[1:] for word in words[1:] if word[0] == "+"}) - {word[1:] for word in words[1:] if word[0] == "-"}

    for case in golden["lists"]:
        assert opened(case["list"]) == opened(case["written"])
        assert (opened(case["list"]) - default, default - opened(case["list"])) == (set(case["adds"]), set(case["takes"]))
    for case in golden["sets"]:
        one, other = opened(case["one"]), opened(case["other"])
        assert one - other == set(case["beyond"])
        assert (one & other, one | other) == (opened(case["both"]), opened(case["either"]))


def explained(directory: Path, policy: str, manifest: str) -> subprocess.CompletedProcess:
    """What `bentod check --explain` says."""
    config = directory / "bentod.toml"
    images = "".join(f"[images.{name}]\n" for name in ("python3", "web"))
    config.write_text(f'name = "Test"\nstate = "state"\n{images}')
    (directory / "policy.toml").write_text(policy)
    (directory / "manifest.toml").write_text(manifest)
    command = [bentod(), "check", "--config", config, "--explain", directory / "manifest.toml", "--json"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_what_the_golden_file_decides_is_what_check_explains_and_its_remedies_help(tmp_path):
    golden = vectors("admit")
    remedied = 0
    for case in golden["cases"]:
        asked = explained(tmp_path, case["policy"], case["manifest"])
        told = json.loads(asked.stdout)
        assert (told["fits"], asked.returncode) == ("granted" in case, 0 if "granted" in case else 1), case["name"]
        wrong = [line for line in told["lines"] if not line["fits"]]
        if "granted" in case:
            assert wrong == []
            continue
        assert {key: wrong[0][key] for key in ("key", "needs", "offers")} == case["refused"], case["name"]
        for side, file in (("manifest", "manifest"), ("policy", "policy")):
            if all(line[side] for line in wrong):
                keys = [line[side].split(" = ")[0] for line in wrong]
                kept = [line for line in case[file].splitlines() if line.split(" = ")[0] not in keys]
                texts = {"policy": case["policy"], "manifest": case["manifest"], file: "\n".join([*kept, *(line[side] for line in wrong)])}
                assert json.loads(explained(tmp_path, **texts).stdout)["fits"], (case["name"], side, texts)
                remedied += 1
    assert remedied > 30
    for kind in ("manifest", "policy"):
        for case in golden["no_manifests" if kind == "manifest" else "no_policies"]:
            texts = {"policy": "[offers]\n", "manifest": 'name = "test"\nmethods = ["hello"]\n', kind: case[kind]}
            asked = explained(tmp_path, **texts)
            assert (asked.returncode, asked.stdout) == (1, "") and case["says"] in asked.stderr, (case["name"], asked.stderr)
