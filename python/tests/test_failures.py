"""What a method raises, whatever that is, becomes an honest and clean report."""

import errno
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bento.failure import describe

OK = "\ndef ok(api):\n    api.output.write(b'ok')\n"


def failed(node, method: str, **arguments: object) -> dict:
    """Runs a method that fails; afterwards the runtime still works."""
    end = node.run(method, **arguments)[1]
    assert end["outcome"] == "failed"
    assert node.run("ok") == (b"ok", {"outcome": "returned"})
    return end


def test_a_traceback_has_the_functions_frames_and_no_others(start):
    node = start()
    files = {
        "function.py": b"""
import json, part
def bad(api):
    part.parse("{")
def wrapped(api):
    try:
        part.parse("{")
    except ValueError as error:
        raise RuntimeError("while parsing") from error
def handled(api):
    try:
        part.parse("{")
    except ValueError:
        undefined
"""
        + OK.encode(),
        "part.py": b"import json\ndef parse(text):\n    return json.loads(text)\n",
    }
    methods = ("bad", "wrapped", "handled", "ok")
    assert "loaded" in node.load(files, methods)
    text = "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"
    inner = f"""\
Traceback (most recent call last):
  File "function.py", line %d, in %s
    part.parse("{{")
  File "part.py", line 3, in parse
    return json.loads(text)
JSONDecodeError: {text}
"""
    assert failed(node, "bad") == {
        "outcome": "failed",
        "error": f"JSONDecodeError: {text}",
        "traceback": inner % (4, "bad"),
    }
    end = failed(node, "wrapped")
    assert end["error"] == "RuntimeError: while parsing"
    assert end["traceback"] == inner % (7, "wrapped") + (
        "\nThe above exception was the direct cause of the following exception:\n\n"
        "Traceback (most recent call last):\n"
        '  File "function.py", line 9, in wrapped\n'
        '    raise RuntimeError("while parsing") from error\n'
        "RuntimeError: while parsing\n"
    )
    end = failed(node, "handled")
    assert end["error"] == "NameError: name 'undefined' is not defined"
    assert "During handling of the above exception, another exception occurred" in end["traceback"]


def test_wrong_arguments_fail_before_any_frame_of_the_function(start):
    node = start(OK, "ok")
    end = failed(node, "ok", surprise=1)
    assert end["error"] == "TypeError: ok() got an unexpected keyword argument 'surprise'"
    assert end["traceback"] == end["error"] + "\n"


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("raise SystemExit", "SystemExit"),
        ("import sys; sys.exit('bye')", "SystemExit: bye"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("raise StopIteration(3)", "StopIteration: 3"),
        ("import _thread; _thread.exit()", "SystemExit"),
        ("bad(api)", "RecursionError: maximum recursion depth exceeded"),
        ("raise Silent", "Silent: (its text cannot be had)"),
        ("raise Quits", "Quits: (its text cannot be had)"),
        ("raise NoText", "NoText: (its text cannot be had)"),
        ("raise Nameless", "Nameless"),
        ("raise Clever", "Clever: clever"),
        ("raise ValueError('\\ud800 \\x00')", "ValueError: ? \x00"),
        ("raise ValueError('é' * 100_000)", "ValueError: " + "é" * 1011 + "…"),
        ("raise ValueError('\\x01' * 100_000)", "ValueError: " + "\x01" * 1011 + "…"),
        ("raise ValueError('😀' * 100_000)", "ValueError: " + "😀" * 1011 + "…"),
        ("raise ExceptionGroup('some', [ValueError(1)])", "ExceptionGroup: some (1 sub-exception)"),
        ("raise Liar", "Liar: I am none"),
        ("raise type('N' * 5000, (Exception,), {})", "N" * 199 + "…"),
    ],
)
def test_whatever_is_raised_is_reported(start, statement, error):
    node = start(
        f"""
class Silent(Exception):
    def __str__(self): raise ValueError("no")
class Quits(Exception):
    def __str__(self): raise SystemExit
class NoText(Exception):
    def __str__(self): return 3
class Strange(type):
    __name__ = property(lambda self: 1 / 0)
class Nameless(Exception, metaclass=Strange): pass
class Text(str):
    def __getitem__(self, part): raise ValueError
    def __format__(self, how): raise ValueError
    def encode(self, *a): raise ValueError
    def __len__(self): raise ValueError
class Clever(Exception):
    def __str__(self): return Text("clever")
class Liar(Exception):
    __class__ = property(lambda self: 1 / 0)
    __cause__ = __traceback__ = property(lambda self: 1 / 0)
    def __str__(self): return "I am none"
def bad(api):
    {statement}
{OK}""",
        *("bad", "ok"),
    )
    end = failed(node, "bad")
    assert end["error"] == error if "Recursion" not in error else end["error"].startswith(error)
    assert len(end["error"]) <= 1_024
    assert len(end["traceback"]) <= 6_000


def test_a_long_traceback_loses_its_middle(start):
    node = start(
        f"""
def bad(api, depth=200):
    if depth: bad(api, depth - 1)  # {'w' * 150}
    raise ValueError("x" * 3000) from ValueError("y" * 100_000)
def huge(api):
    try: bad(api)
    except ValueError as error:
        raise KeyError("z" * 1_000) from error
{OK}""",
        *("bad", "huge", "ok"),
    )
    end = failed(node, "bad")
    assert "... 171 frames more ..." not in end["traceback"] and "the middle is cut out" in end["traceback"]
    assert 5_900 < len(end["traceback"]) <= 6_000
    assert end["traceback"].rstrip().endswith("xxx…")
    end = failed(node, "huge")
    assert "the middle is cut out" in end["traceback"] and 5_900 < len(end["traceback"]) <= 6_000
    assert end["traceback"].rstrip().endswith("z'")


def test_a_method_that_does_not_run_when_called_fails(start):
    node = start("async def a(api): pass\ndef g(api):\n    yield\n" + OK, "a", "g", "ok")
    assert "the method is a coroutine and did not run" in failed(node, "a")["error"]
    assert "the method is a generator and did not run" in failed(node, "g")["error"]


@given(st.text(), st.integers(0, 300))
def test_every_text_fits_into_its_limits(text, times):
    error, traceback = describe(ValueError(text * times), "/nowhere")
    assert len(error) <= 1_024 and len(traceback) <= 6_000
    assert error.encode().decode() == error


BOUNDS = """
import errno, os, threading, time
held = []
def memory(api):
    while True: held.append(bytearray(1 << 20))
def crumbs(api):
    mine = []
    while True: mine.append(object())
def clear(api):
    held.clear()
def once(api):
    bytearray(1 << 40)
def scratch(api):
    raise OSError(errno.ENOSPC, "No space left on device")
def descriptors(api):
    while True: held.append(os.open("/dev/null", os.O_RDONLY))
def hold(api):
    try: descriptors(api)
    except OSError: pass
    api.output.write(b"full")
    api.input.read()
def close(api):
    while held: os.close(held.pop())
def processes(api):
    raise RuntimeError("can't start new thread")
def threads(api):
    # Each wants address space for its stack, so they run into the memory bound at the latest.
    stop = threading.Event()
    try:
        while True: threading.Thread(target=stop.wait, daemon=True).start()
    finally:
        stop.set()
def file(api):
    with open("big", "wb") as file:
        while True: file.write(bytes(65536))
"""
METHODS = ("memory", "crumbs", "clear", "once", "scratch", "descriptors", "hold", "close", "processes", "threads", "file", "ok")
MEMORY = "import resource; resource.setrlimit(resource.RLIMIT_AS, (80 << 20, 80 << 20)); "


def killed(bound: str) -> dict:
    return {"outcome": "killed", "bound": bound}


def test_a_bound_that_is_not_handled_is_named(start):
    node = start(BOUNDS + OK, *METHODS)
    for bound in ("scratch", "processes"):
        assert node.run(bound)[1] == killed(bound)
    assert node.run("once")[1] == killed("memory")
    assert node.run("ok") == (b"ok", {"outcome": "returned"})
    # Handled by the function: not a bound any more.
    node = start("def f(api):\n    try: bytearray(1 << 60)\n    except MemoryError: raise ValueError('too much')\n", "f")
    assert node.run("f")[1]["error"] == "ValueError: too much"


def test_a_full_memory_is_reported_and_the_next_invocation_runs(start):
    node = start(BOUNDS + OK, *METHODS, before=MEMORY)
    for _ in range(5):
        # The bytes stay with the function, so it is at its bound from now on.
        assert node.run("memory")[1] == killed("memory")
        # Whether it still runs is open; that it is reported is not.
        assert node.run("ok")[1] in ({"outcome": "returned"}, killed("memory"))
        node.run("clear")
        assert node.run("crumbs")[1] == killed("memory")
        assert node.run("ok") == (b"ok", {"outcome": "returned"})


def test_others_at_the_same_time_are_told_when_memory_runs_out(start):
    node = start(BOUNDS + OK, *METHODS, before=MEMORY)
    together = [node.invoke(method) for method in ("memory", "crumbs", "memory", "crumbs", "memory")]
    assert [running.done() for running in together] == [killed("memory")] * 5
    node.run("clear")
    assert node.run("ok") == (b"ok", {"outcome": "returned"})


def test_used_up_descriptors_are_reported(start):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20)); "
    node = start(BOUNDS + OK, *METHODS, before=limit)
    assert node.run("descriptors")[1] == killed("descriptors")
    # The one that the invocation's stream took is free again; while another invocation has it, no stream can be handed over.
    holder = node.invoke("hold")
    assert holder.stream.recv(10) == b"full"
    assert node.run("ok") == (b"", killed("descriptors"))
    holder.stream.shutdown(socket.SHUT_WR)
    assert holder.done() == {"outcome": "returned"}
    assert node.run("close") == (b"", {"outcome": "returned"})
    assert node.run("ok") == (b"ok", {"outcome": "returned"})


def test_threads_without_end_are_reported(start):
    node = start(BOUNDS + OK, *METHODS, before=MEMORY)
    assert node.run("threads")[1]["bound"] in ("processes", "memory")
    assert node.run("ok") == (b"ok", {"outcome": "returned"})


def test_a_file_over_the_bound_is_reported(start, tmp_path):
    limit = f"import resource, os; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)); os.chdir({str(tmp_path)!r}); "
    node = start(BOUNDS + OK, *METHODS, before=limit)
    assert node.run("file")[1] == killed("scratch")


def test_the_numbers_of_the_bounds_are_these():
    from bento.runtime import _bound

    assert _bound(OSError(errno.ENOSPC, "")) == "scratch"
    assert _bound(OSError(errno.EMFILE, "")) == "descriptors"
    assert _bound(OSError(errno.ENOMEM, "")) == "memory"
    assert _bound(OSError(errno.EACCES, "")) is None
    assert _bound(RuntimeError("can't start new thread")) == "processes"
    assert _bound(RuntimeError("another")) is None
    assert _bound(ValueError()) is None
