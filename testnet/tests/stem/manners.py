"""What many scripts ask beside their work: the version, options, listeners, signals."""

import argparse
import json

import stem
import stem.connection
from stem import Signal
from stem.control import Controller

parser = argparse.ArgumentParser()
parser.add_argument("--control", default="127.0.0.1:9051")
address, port = parser.parse_args().control.split(":")

with Controller.from_port(address=address, port=int(port)) as controller:
    info = controller.get_protocolinfo()
    print(json.dumps(["protocol", info.protocol_version, list(info.auth_methods) == [stem.connection.AuthMethod.NONE]]))
    stem.connection.authenticate_none(controller)
    print(json.dumps(["authenticated", controller.is_authenticated(), controller.is_alive()]))
    print(json.dumps(["version", str(controller.get_version()) == str(info.tor_version)]))
    print(json.dumps(["listeners", len(controller.get_socks_listeners())]))
    print(json.dumps(["bootstrap", controller.get_info("status/bootstrap-phase")]))
    print(json.dumps(["established", controller.get_info(["status/circuit-established", "status/enough-dir-info", "network-liveness"])], sort_keys=True))
    names = ["__LeaveStreamsUnattached", "__DisablePredictedCircuits", "UseMicrodescriptors", "HiddenServiceSingleHopMode", "ORPort"]
    print(json.dumps(["options", controller.get_conf_map(names)], sort_keys=True))
    controller.set_conf("__LeaveStreamsUnattached", "1")
    print(json.dumps(["set", controller.get_conf("__LeaveStreamsUnattached")]))
    controller.reset_conf("__LeaveStreamsUnattached")
    print(json.dumps(["reset", controller.get_conf("__LeaveStreamsUnattached")]))
    print(json.dumps(["new identity", controller.is_newnym_available(), controller.signal(Signal.NEWNYM), controller.is_newnym_available()]))
    controller.enable_feature("VERBOSE_NAMES")

    for what, ask in {
        "unknown key": lambda: controller.get_info("no/such/key"),
        "unknown option": lambda: controller.get_conf("NoSuchOption"),
        "unknown option set": lambda: controller.set_conf("NoSuchOption", "1"),
        "bad value": lambda: controller.set_conf("__LeaveStreamsUnattached", "perhaps"),
        "unknown signal": lambda: controller.signal("NONSENSE"),
        "no relay": lambda: controller.get_info("fingerprint"),
        "unknown feature": lambda: controller.enable_feature("NO_SUCH_FEATURE"),
        "unknown command": lambda: print(json.dumps(["said", str(controller.msg("NONSENSE"))])),
    }.items():
        try:
            print(json.dumps([what, str(ask())]))
        except (stem.ControllerError, ValueError) as error:
            print(json.dumps([what, type(error).__name__, str(error)]))
