"""Parts of a node killed again and again while it is used: nothing is lost, and nothing is left."""

import os
import subprocess

from measures.machine import figure
from measures.programs import Trouble, build

ROUNDS = 200


def measure(rounds: int = ROUNDS) -> None:
    """Kill node, tor, jail spawners and functions at random moments during load on a private network; look what is lost or left"""
    programs = build("bento-node", "bento-jail", "testnet")
    words = [programs / "testnet", "faults", "--rounds", str(rounds)]
    # The seed is told by the program; a run with the same one is `testnet faults --seed SEED`.
    done = subprocess.run(words, env={**os.environ, "BENTO_BIN": str(programs)})
    if done.returncode:
        raise Trouble("something was lost or left; the lines above say what, and the seed to repeat it with")
    figure("faults_survived", rounds, "kills")
