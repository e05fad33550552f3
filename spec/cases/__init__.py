"""What `openapi.yaml` documents, and one request for each answer that it has: those of `functions`, `kept` and `invocations`."""

import copy
from collections.abc import Callable

import jsonschema
import yaml

from conftest import ROOT, Answer

API = yaml.safe_load((ROOT / "spec/openapi.yaml").read_text())

Key = tuple[str, int, str | None]
CASES: dict[Key, Callable[..., Answer]] = {}

HELLO = "def hello(api, name='world'):\n    api.output.write(name.encode())\n"
WAIT = "def wait(api):\n    api.output.write(b'x')\n    api.input.read()\n"
FAIL = "def fail(api):\n    raise ValueError('no')\n"
TAKE = "def take(api):\n    bytearray(1 << 30)\n"
KEEPS = "storage = '1 MiB'\n"
SPIN = "def hello(api): pass\nwhile True: pass\n"


def resolved(part: object) -> object:
    """A part of the document with its `$ref`s followed, except in schemas."""
    while isinstance(part, dict) and "$ref" in part and not part["$ref"].startswith("#/components/schemas/"):
        target: object = API
        for name in part["$ref"].removeprefix("#/").split("/"):
            target = target[name]
        part = target
    return part


def operations() -> dict[str, dict]:
    """All operations by method and path."""
    return {f"{method.upper()} {path}": operation for path, item in API["paths"].items() for method, operation in item.items()}


def documented() -> set[Key]:
    """Every answer that is documented."""
    keys: set[Key] = set()
    for name, operation in operations().items():
        for status, response in operation["responses"].items():
            problem = resolved(response).get("content", {}).get("application/problem+json")
            keys |= {(name, int(status), code) for code in (problem["examples"] if problem else [None])}
    return keys


def validator(schema: dict) -> jsonschema.Draft202012Validator:
    """Checks values against a schema of the document."""
    return jsonschema.Draft202012Validator({**copy.deepcopy(schema), "components": API["components"]})


def case(operation: str, status: int, code: str | None = None) -> Callable:
    """Notes what is asked to see an answer."""

    def note(function: Callable[..., Answer]) -> Callable[..., Answer]:
        assert (operation, status, code) not in CASES
        CASES[operation, status, code] = function
        return function

    return note


INSTALL, STATUS, SHUTDOWN = "POST /v1/functions", "GET /v1/function", "DELETE /v1/function"
RENEW, FETCH, FORGET = "POST /v1/renew", "GET /v1/output/{output}", "DELETE /v1/output/{output}"
FOLLOW = "GET /l/{link}"
INVOKE, RUN = "POST /v1/invoke/{method}", "POST /v1/run/{method}"

OUTPUT = "0123456789abcdef" * 2
