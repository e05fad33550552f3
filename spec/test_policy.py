"""What `policy.md` says in tables is what the programs do."""

import ipaddress
import json
import re
import sys
import tomllib
from pathlib import Path

from conftest import ROOT, ask, run

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
    written = start(policy.replace('["tor"]', '["direct"]') + "functions = 50\n")
    left_out = start('[offers]\negress = ["direct"]\n')
    assert ask(written, "GET", "/v1/policy").body == ask(left_out, "GET", "/v1/policy").body
    assert tomllib.loads(policy)["offers"]["egress"] == ["tor"]

    # The golden file, which the Rust tests read, has a case for each amount that a manifest leaves out.
    cases = json.loads(Path(__file__).with_name("vectors").joinpath("admit.json").read_text())["cases"]
    told = {case["refused"]["key"]: case["refused"]["needs"] for case in cases if "left out" in case["name"]}
    needs = {key.strip("`"): needed.strip("`") for key, _, _, needed, _, _, _ in lines}
    assert told == {key: needs[key].strip('"') for key in needs if key not in ("image", "calls", "egress", "connect")}
    # All of them written out are within what a policy offers by itself.
    full = "".join(f"{key} = {value}\n" for key, value in needs.items())
    assert run(left_out, "def hello(api):\n    api.output.write(b'x')\n", "hello", full).status == 200
