"""Waits for events: circuits that are built and closed, a descriptor that is published and fetched."""

import argparse
import json
import queue

import stem
from stem.control import Controller, EventType

parser = argparse.ArgumentParser()
parser.add_argument("--control", default="127.0.0.1:9051")
address, port = parser.parse_args().control.split(":")

with Controller.from_port(address=address, port=int(port)) as controller:
    controller.authenticate()
    circuits, descriptors, contents = queue.Queue(), queue.Queue(), queue.Queue()
    controller.add_event_listener(circuits.put, EventType.CIRC)

    circuit = controller.new_circuit(["middle1", "middle2", "exit1"])
    statuses = []
    while not statuses or statuses[-1][0] != "BUILT":
        event = circuits.get(timeout=60)
        if event.id == circuit:
            statuses.append([event.status, [nickname for _, nickname in event.path]])
    controller.close_circuit(circuit)
    while statuses[-1][0] != "CLOSED":
        event = circuits.get(timeout=60)
        if event.id == circuit:
            statuses.append([event.status, event.reason])
    print(json.dumps(["circuit", statuses]))
    controller.remove_event_listener(circuits.put)

    controller.add_event_listener(descriptors.put, EventType.HS_DESC)
    controller.add_event_listener(contents.put, EventType.HS_DESC_CONTENT)
    service = controller.create_ephemeral_hidden_service(80)
    actions = set()
    while "UPLOADED" not in actions:
        event = descriptors.get(timeout=60)
        if event.address == service.service_id:
            actions.add(event.action)
    print(json.dumps(["published", sorted(actions & {"UPLOAD", "UPLOADED"})]))

    controller.msg("HSFETCH " + service.service_id)
    fetched = set()
    while "RECEIVED" not in fetched:
        event = descriptors.get(timeout=60)
        if event.address == service.service_id and event.action in ("REQUESTED", "RECEIVED"):
            fetched.add(event.action)
    print(json.dumps(["fetched", sorted(fetched)]))
    lines = []
    while len(lines) < 3:
        content = contents.get(timeout=60)
        if content.address == service.service_id:
            # A directory that did not have it is told with nothing.
            lines = [line for line in str(content).splitlines() if line]
    print(json.dumps(["descriptor", lines[1], lines[-1]]))
    controller.remove_ephemeral_hidden_service(service.service_id)

    for kind in ("BW", "SIGNAL", "NO_SUCH_EVENT"):
        try:
            controller.add_event_listener(circuits.put, kind)
            controller.remove_event_listener(circuits.put)
            print(json.dumps([kind, "listened to"]))
        except stem.ControllerError as error:
            print(json.dumps([kind, type(error).__name__, str(error)]))
            controller.remove_event_listener(circuits.put)
