"""Builds circuits over chosen relays, extends them, looks at them, and closes them."""

import argparse
import json

import stem
from stem.control import Controller

parser = argparse.ArgumentParser()
parser.add_argument("--control", default="127.0.0.1:9051")
address, port = parser.parse_args().control.split(":")


def failure(what, ask):
    try:
        print(json.dumps([what, str(ask())]))
    except (stem.ControllerError, ValueError) as error:
        print(json.dumps([what, type(error).__name__, getattr(error, "code", None)]))


with Controller.from_port(address=address, port=int(port)) as controller:
    controller.authenticate()
    relays = {relay.nickname: relay.fingerprint for relay in controller.get_network_statuses()}

    def path(circuit):
        found = controller.get_circuit(circuit)
        return [found.status, [nickname for _, nickname in found.path], found.purpose]

    three = controller.new_circuit(["middle1", relays["middle2"], "$" + relays["exit1"]], await_build=True)
    print(json.dumps(["three hops", *path(three)]))

    two = controller.new_circuit([relays["middle1"], relays["middle3"]], await_build=True)
    print(json.dumps(["two hops", *path(two)]))
    same = controller.extend_circuit(two, relays["exit2"], await_build=True)
    print(json.dumps(["extended", same == two, *path(two)]))

    chosen = controller.new_circuit(await_build=True)
    print(json.dumps(["chosen by tor", controller.get_circuit(chosen).status, len(controller.get_circuit(chosen).path)]))

    controller.repurpose_circuit(two, "controller")
    controller.close_circuit(two)
    open_ones = [circuit.id for circuit in controller.get_circuits()]
    print(json.dumps(["closed", two in open_ones, three in open_ones]))
    controller.close_circuit(three)
    controller.close_circuit(chosen)

    failure("unknown relay", lambda: controller.new_circuit(["middle1", "nosuchrelay"]))
    failure("unknown circuit", lambda: controller.extend_circuit("99999", "middle1"))
    failure("unknown purpose", lambda: controller.new_circuit(["middle1"], purpose="mischief"))
    failure("closed twice", lambda: controller.close_circuit(three))
    failure("repurposed when gone", lambda: controller.repurpose_circuit(three, "general"))
    failure("looked at when gone", lambda: controller.get_circuit(three))
