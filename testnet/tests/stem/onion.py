"""Serves a page from an ephemeral onion service, as Stem's tutorial "Over the River" does it, and fetches it through Tor."""

import argparse
import http.server
import json
import socket
import threading

import stem
from stem.control import Controller

parser = argparse.ArgumentParser()
parser.add_argument("--control", default="127.0.0.1:9051")
parser.add_argument("--socks", default="127.0.0.1:9050")
options = parser.parse_args()
address, port = options.control.split(":")


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b"<h1>Grave cakes</h1>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


def fetch(host, port):
    """The body of a page, through Tor's SOCKS port."""
    proxy, number = options.socks.split(":")
    with socket.create_connection((proxy, int(number)), timeout=90) as stream:
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


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
threading.Thread(target=server.serve_forever, daemon=True).start()

with Controller.from_port(address=address, port=int(port)) as controller:
    controller.authenticate()
    service = controller.create_ephemeral_hidden_service({80: server.server_port}, await_publication=True)
    print(json.dumps(["service", len(service.service_id), service.private_key_type, len(service.private_key)]))
    print(json.dumps(["listed", service.service_id in controller.list_ephemeral_hidden_services()]))
    print(json.dumps(["page", fetch(service.service_id + ".onion", 80)]))
    print(json.dumps(["removed", controller.remove_ephemeral_hidden_service(service.service_id)]))
    print(json.dumps(["removed again", controller.remove_ephemeral_hidden_service(service.service_id)]))

    again = controller.create_ephemeral_hidden_service(
        {80: server.server_port}, key_type=service.private_key_type, key_content=service.private_key, discard_key=True
    )
    print(json.dumps(["same key", again.service_id == service.service_id, again.private_key]))
    controller.remove_ephemeral_hidden_service(again.service_id)

    for what, ask in {
        "no such key": lambda: controller.create_ephemeral_hidden_service(80, key_type="ED25519-V3", key_content="AAAA"),
        "no such type": lambda: controller.create_ephemeral_hidden_service(80, key_type="NEW", key_content="RSA1024"),
        "no such port": lambda: controller.create_ephemeral_hidden_service({0: 80}),
    }.items():
        try:
            print(json.dumps([what, str(ask())]))
        except stem.ControllerError as error:
            print(json.dumps([what, type(error).__name__, str(error)]))
server.shutdown()
