"""Fetches a page over circuits of its own choice, as Stem's tutorial "To Russia With Love" does it: each stream is attached by hand."""

import argparse
import json
import socket
import threading
import time

import stem
from stem.control import Controller, EventType

parser = argparse.ArgumentParser()
parser.add_argument("--control", default="127.0.0.1:9051")
parser.add_argument("--socks", default="127.0.0.1:9050")
parser.add_argument("--site", default="127.81.0.1:8081")
options = parser.parse_args()
address, port = options.control.split(":")
host, web = options.site.split(":")


def fetch(host, port):
    """The body of a page, through Tor's SOCKS port."""
    proxy, number = options.socks.split(":")
    with socket.create_connection((proxy, int(number)), timeout=60) as stream:
        stream.sendall(b"\x05\x01\x00")
        assert stream.recv(2) == b"\x05\x00"
        name = host.encode()
        stream.sendall(b"\x05\x01\x00\x03" + bytes([len(name)]) + name + port.to_bytes(2, "big"))
        with stream.makefile("rb") as file:
            reply = file.read(10)
            if reply[1] != 0:
                return ["refused", reply[1]]
            stream.sendall(b"GET / HTTP/1.0\r\nHost: x\r\n\r\n")
            return file.read().partition(b"\r\n\r\n")[2].decode()


with Controller.from_port(address=address, port=int(port)) as controller:
    controller.authenticate()

    def scan(path):
        circuit = controller.new_circuit(path, await_build=True)
        seen, closed, ours = [], threading.Event(), []

        def attach_stream(stream):
            if stream.target_port != int(web):
                return
            if stream.status == "NEW":
                ours.append(stream.id)
                controller.attach_stream(stream.id, circuit)
            if stream.id in ours:
                on = {circuit: "the circuit", None: None}.get(stream.circ_id, "another")
                # Where the exit says which address a name has is Tor's affair, and so is what it tries before.
                if stream.status in ("NEW", "SENTCONNECT", "SUCCEEDED", "CLOSED"):
                    seen.append([stream.status, on])
                if stream.status == "CLOSED":
                    closed.set()

        controller.add_event_listener(attach_stream, EventType.STREAM)
        try:
            controller.set_conf("__LeaveStreamsUnattached", "1")
            body = fetch(host, int(web))
            print(json.dumps(["page", body, "closed" if closed.wait(30) else "still open"]))
            print(json.dumps(["events", seen]))
        finally:
            controller.remove_event_listener(attach_stream)
            controller.reset_conf("__LeaveStreamsUnattached")
        controller.close_circuit(circuit)

    scan(["middle1", "middle2", "exit1"])
    scan(["middle3", "exit2"])
    print(json.dumps(["attached by tor", fetch(host, int(web))]))
    # The page is there before the stream's end is told.
    left, end = ["not asked"], time.monotonic() + 30
    while left and time.monotonic() < end:
        left = [stream.id for stream in controller.get_streams() if stream.target_port == int(web)]
        time.sleep(0.05)
    print(json.dumps(["streams left", left]))

    for what, ask in {
        "unknown stream": lambda: controller.attach_stream("99999", "1"),
        "unknown stream closed": lambda: controller.close_stream("99999"),
    }.items():
        try:
            print(json.dumps([what, str(ask())]))
        except stem.ControllerError as error:
            print(json.dumps([what, type(error).__name__, str(error)]))
