"""A private Tor network with a node on it, for benchmarks that need one."""

import json
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

from measures.programs import Program, Trouble

UP_SECONDS_MAX = 240
"""A first start makes keys and waits for the authorities' first consensus."""

NODE_UNREACHABLE = 6
"""`bento`'s exit status for that."""

RETRY_SECONDS = 1.0


def up(stack: ExitStack, programs: Path, directory: Path, *words: str) -> dict:
    """Brings the network up; what `testnet up` tells of it."""
    started = [str(programs / "testnet"), "up", "--until-stdin-closes", *words]
    network = stack.enter_context(Program("testnet", started, directory / "testnet.log"))
    told = json.loads(network.wait_for(r"^\{.*\}$", UP_SECONDS_MAX).group())
    told["pid"] = network.process.pid
    return told


def node(
    stack: ExitStack, programs: Path, directory: Path, network: dict, policy: str, keys: str = "", tables: str = ""
) -> tuple[Program, str]:
    """A node with a `tor` of its own in that network, once it is published, and its address. `keys` and `tables` are of its `bentod.toml`."""
    home = directory / "node"
    home.mkdir(mode=0o700)
    lines = json.dumps(Path(network["torrc"]).read_text().splitlines())
    (home / "bentod.toml").write_text(f'name = "Benchmark"\nstate = "state"\n{keys}\n[tor]\nlines = {lines}\n{tables}\n')
    (home / "policy.toml").write_text(policy)
    program = stack.enter_context(Program("bentod", [str(programs / "bentod"), "run", "--config", str(home / "bentod.toml")], home / "log"))
    return program, program.wait_for(r"published address=(\S+)", UP_SECONDS_MAX).group(1)


def patiently(words: list[str], environment: dict[str, str], until: float, seconds: float) -> subprocess.CompletedProcess:
    """Runs `bento`, again as long as the node is not reached and it is not too late: a descriptor that has just been published is not at
    once where every client looks."""
    while True:
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=seconds)
        if done.returncode != NODE_UNREACHABLE or time.monotonic() > until:
            break
        time.sleep(RETRY_SECONDS)
    if done.returncode:
        raise Trouble(f"{' '.join(map(str, words[:3]))} ended with {done.returncode}\n{done.stderr}")
    return done
