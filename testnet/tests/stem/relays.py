"""Lists the relays of the network, and asks for single ones by fingerprint and by name."""

import argparse
import json

import stem
from stem.control import Controller

parser = argparse.ArgumentParser()
parser.add_argument("--control", default="127.0.0.1:9051")
address, port = parser.parse_args().control.split(":")

with Controller.from_port(address=address, port=int(port)) as controller:
    controller.authenticate()
    relays = list(controller.get_network_statuses())
    for relay in sorted(relays, key=lambda relay: relay.nickname):
        print(json.dumps(["relay", relay.nickname, relay.fingerprint, relay.address, relay.or_port, sorted(relay.flags)]))

    exit = next(relay for relay in relays if relay.nickname == "exit1")
    print(json.dumps(["by fingerprint", controller.get_network_status(exit.fingerprint).nickname]))
    print(json.dumps(["by nickname", controller.get_network_status("exit1").fingerprint]))
    print(json.dumps(["microdescriptor", controller.get_microdescriptor(exit.fingerprint).exit_policy.summary()]))
    print(json.dumps(["microdescriptors", len(list(controller.get_microdescriptors()))]))

    for what, ask in {
        "nobody": lambda: controller.get_network_status("nobody"),
        "no fingerprint": lambda: controller.get_network_status("0" * 40),
        "server descriptor": lambda: controller.get_server_descriptor("exit1"),
        "server descriptors": lambda: list(controller.get_server_descriptors()),
        "own": lambda: controller.get_network_status(),
    }.items():
        try:
            print(json.dumps([what, str(ask())]))
        except (stem.ControllerError, ValueError) as error:
            print(json.dumps([what, type(error).__name__, str(error)]))
