"""Fetches the descriptor of an onion service, and fails to fetch one that nobody has published."""

import argparse
import json

import stem
from stem.control import Controller
from stem.descriptor.hidden_service import HiddenServiceDescriptorV3

parser = argparse.ArgumentParser()
parser.add_argument("--control", default="127.0.0.1:9051")
address, port = parser.parse_args().control.split(":")

with Controller.from_port(address=address, port=int(port)) as controller:
    controller.authenticate()
    service = controller.create_ephemeral_hidden_service(80, await_publication=True)
    found = controller.get_hidden_service_descriptor(service.service_id, timeout=60)
    # This version of Stem reads what it gets as a descriptor of version 2; the bytes are those of version 3.
    descriptor = HiddenServiceDescriptorV3.from_str(str(found))
    print(json.dumps(["descriptor", descriptor.version, descriptor.lifetime, descriptor.signature is not None]))
    inner = descriptor.decrypt(service.service_id)
    print(json.dumps(["opened", len(inner.introduction_points) > 0]))
    print(json.dumps(["kept", controller.get_info("hs/client/desc/id/" + service.service_id).splitlines()[0]]))
    controller.remove_ephemeral_hidden_service(service.service_id)

    for what, ask in {
        "nobody's": lambda: controller.get_hidden_service_descriptor("pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd", timeout=60),
        "no address": lambda: controller.get_hidden_service_descriptor("nonsense"),
        "not kept": lambda: controller.get_info("hs/client/desc/id/pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd"),
    }.items():
        try:
            print(json.dumps([what, str(ask())]))
        except (stem.ControllerError, ValueError) as error:
            print(json.dumps([what, type(error).__name__]))
