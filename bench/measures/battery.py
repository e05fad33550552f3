"""The escape battery: how many attacks there are, and how many are contained as every user."""

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from measures import attacks
from measures.machine import ROOT, figure
from measures.programs import Trouble

TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or Path.home() / ".cache/bento/target")

JOB_SECONDS_MAX = 1800
"""Longest for the attacks that need a node."""


def measure(rounds: int = 1) -> None:
    """Attacks on the walls of a jail and on a node, as root and as an ordinary user: how many are contained"""
    users = ["root", "ordinary"] if os.geteuid() == 0 else ["self"]
    # Nothing here depends on speed, so what the tests are built of will do.
    _cargo("build", "-p", "bento-node", "-p", "bento-jail")
    given = os.environ.get("BENTO_BIN")
    programs = Path(given) if given else TARGET / "debug"
    print(f"programs   {'those in BENTO_BIN, which may be of another commit' if given else 'of the working tree, profile dev'}", flush=True)
    # The attack, and the users as which it was contained.
    contained: dict[str, set[str]] = {}
    for _ in range(rounds):
        with _readable(programs) as directory:
            held: dict[str, set[str]] = {}
            for name, user, good, why in [*_jail(directory, users), *_node(directory, users)]:
                held.setdefault(name, set())
                if good:
                    held[name].add(user)
                else:
                    print(f"NOT CONTAINED  {name} as {user}: {why}", flush=True)
        # Contained is what is contained in every round.
        contained = {name: good & contained.get(name, good) for name, good in held.items()}
    for user in users:
        print(f"{user:10} {sum(user in good for good in contained.values())} of {len(contained)} contained")
    figure("battery_total", len(contained), "attacks")
    figure("battery_contained", sum(good >= set(users) for good in contained.values()), "attacks")


def _jail(directory: Path, users: list[str]) -> Iterator[tuple[str, str, bool, str]]:
    """Each attack of the table, once as it is and once with its calls opened."""
    launcher = attacks.Ours(directory / "bento-jail", _spec())
    for attack in attacks.table():
        for user in users:
            results = [attacks.run(way, launcher, user == "ordinary") for way in attack.ways()]
            yield f"jail {attack.name}", user, all(result.contained for result in results), " || ".join(result.why for result in results)


def _spec() -> dict:
    return json.loads(_cargo("run", "--quiet", "-p", "bento-jail", "--example", "spec"))


def _node(directory: Path, users: list[str]) -> Iterator[tuple[str, str, bool, str]]:
    """The tests of a node that are attacks, by their names."""
    built = _cargo("test", "-p", "bento-node", "--test", "node", "--no-run", "--message-format=json")
    messages = [json.loads(line) for line in built.splitlines() if line.startswith("{")]
    program = next((one["executable"] for one in messages if one.get("executable") and one["target"]["name"] == "node"), None)
    if program is None:
        raise Trouble("cargo does not say which program has the tests of the node")
    shutil.copy(program, directory / "tests")
    for user in users:
        words = [str(directory / "tests"), "escapes::", "--skip", "ordinary::", "--test-threads", "2"]
        if user == "ordinary":
            words = ["setpriv", "--reuid", str(attacks.NOBODY), "--regid", str(attacks.NOBODY), "--clear-groups", "--", *words]
        environment = {**os.environ, "BENTOD_PROGRAM": str(directory / "bentod"), "RUST_BACKTRACE": "0"}
        done = subprocess.run(words, cwd="/", env=environment, capture_output=True, text=True, timeout=JOB_SECONDS_MAX)
        results = re.findall(r"^test escapes::(\S+) \.\.\. (\S+)$", done.stdout, re.MULTILINE)
        if not results:
            raise Trouble(f"the attacks on the node did not run as {user}\n{(done.stdout + done.stderr)[-3000:]}")
        for name, result in results:
            yield f"node {name}", user, result == "ok", done.stdout[-3000:] if result != "ok" else ""


def _cargo(*words: str) -> str:
    done = subprocess.run(["cargo", *words], cwd=ROOT, env={**os.environ, "CARGO_TARGET_DIR": str(TARGET)}, capture_output=True, text=True)
    if done.returncode:
        raise Trouble(f"cargo {' '.join(words)} failed\n{done.stderr}")
    return done.stdout


@contextmanager
def _readable(programs: Path) -> Iterator[Path]:
    """A directory with the programs that every user can read; the build directory may be root's alone."""
    with tempfile.TemporaryDirectory(prefix="bento-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        for program in "bentod", "bento-jail":
            shutil.copy(programs / program, directory / program)
        yield directory
