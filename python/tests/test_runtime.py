"""The runtime as the node sees it: frames in, frames and streams out."""

import json
import os
import socket
import subprocess

from fake_node import HOME, PYTHON

HELLO = """
def hello(api, name="world"):
    api.output.write(f"hello {name}".encode())
"""


def test_a_method_gets_its_arguments_and_its_output_ends_with_it(start):
    node = start(HELLO, "hello")
    assert node.run("hello") == (b"hello world", {"outcome": "returned"})
    assert node.run("hello", name="wörld 😀") == ("hello wörld 😀".encode(), {"outcome": "returned"})


def test_it_starts_exactly_as_the_jail_starts_it(tmp_path):
    # The one place where the bundle goes to its real directory; nothing of the bundle is written, since it has a bad name.
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    code = "import sys; sys.path.insert(0, '/bento'); from bento import runtime; runtime.main()".replace("/bento", str(HOME))
    pid = os.posix_spawn(
        PYTHON,
        [PYTHON, "-I", "-S", "-B", "-c", code],
        {"PATH": "/usr/bin", "HOME": "/tmp", "LANG": "C.UTF-8", "MALLOC_ARENA_MAX": "1"},
        file_actions=[
            *((os.POSIX_SPAWN_OPEN, number, "/dev/null", os.O_RDWR, 0) for number in (0, 1, 2)),
            (os.POSIX_SPAWN_DUP2, theirs.fileno(), 3),
        ],
    )
    theirs.close()
    ours.settimeout(30)
    stream, far = socket.socketpair()
    socket.send_fds(ours, [b'{"load":{"code":"x.py","methods":[],"files":[["../x.py",0]]}}'], [far.fileno()])
    far.close()
    stream.close()
    assert "unloadable" in json.loads(ours.recv(65_536))
    ours.close()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_nothing_slow_is_imported_before_a_function_asks_for_it(tmp_path):
    found = subprocess.run(
        [PYTHON, "-I", "-S", "-B", "-c", f"import sys; sys.path.insert(0, {str(HOME)!r}); from bento import runtime; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert "bento.runtime" in found
    assert not {"os", "re", "enum", "json", "socket", "threading", "traceback", "typing", "collections", "bento.net"} & set(found)


def test_a_bundle_can_have_modules_and_data_in_directories(start):
    node = start()
    files = {
        "main.py": b"""
from pathlib import Path
import part
from deep.er import other
def run(api):
    data = (Path(__file__).parent / "data" / "bytes.bin").read_bytes()
    api.output.write(b"%s %s %d" % (part.NAME, other.NAME, len(data)))
""",
        "part.py": b"NAME = b'part'",
        "deep/er/other.py": b"NAME = b'other'",
        "data/bytes.bin": bytes(range(256)) * 2000,
        "data/empty": b"",
    }
    assert node.load(files, ("run",), "main.py") == {"loaded": {"methods": ["run"]}}
    assert node.run("run") == (b"part other 512000", {"outcome": "returned"})


def test_file_names_stay_in_the_bundle(start, tmp_path):
    for name in ("../x.py", "/tmp/bento-x.py", "a/../../x.py", "a//x.py", ".", "", "a\0b"):
        answer = start().load({name: b"x = 1", "function.py": b""})
        assert "name that is not allowed" in answer["unloadable"]["error"], name
    assert not list(tmp_path.glob("**/x.py"))
    # The allowed neighbour.
    assert "loaded" in start().load({"a/..x.py": b"", "function.py": b""})


def test_a_bundle_of_another_length_than_announced_is_not_loaded(start):
    assert "too early" in start().load({"function.py": b"x = 1"}, cut=1)["unloadable"]["error"]


def test_what_cannot_be_imported_is_unloadable_and_says_why(start):
    answer = start().load({"function.py": b"x = 1\ndef f(:\n"})["unloadable"]
    assert answer["error"].startswith("SyntaxError: ")
    assert 'File "function.py", line 2\n    def f(:' in answer["traceback"]
    answer = start().load({"function.py": b"import part", "part.py": b"\n1 / 0\n"})["unloadable"]
    assert answer["error"] == "ZeroDivisionError: division by zero"
    assert 'File "function.py", line 1, in <module>\n    import part\n' in answer["traceback"]
    assert 'File "part.py", line 2, in <module>\n    1 / 0\n' in answer["traceback"]
    assert "runtime" not in answer["traceback"] and "importlib" not in answer["traceback"]
    assert start().load({"function.py": b"import sys; sys.exit(3)"})["unloadable"]["error"] == "SystemExit: 3"
    assert "no method f" in start().load({"function.py": b"f = 1"}, ("f",))["unloadable"]["error"]


def test_the_code_cannot_take_the_name_of_a_module_of_pythons(start):
    for name in ("json.py", "bento.py", "io.py"):
        assert "Python has a module of this name" in start().load({name: b""}, code=name)["unloadable"]["error"]
    assert "no dot" in start().load({"a.b.py": b""}, code="a.b.py")["unloadable"]["error"]
    assert "loaded" in start().load({"deep/er.py": b"def f(api): pass"}, ("f",), code="deep/er.py")


def test_an_invocation_may_be_sent_right_behind_its_code(start):
    node = start()
    ours, theirs = socket.socketpair()
    source = HELLO.encode()
    node.send({"load": {"code": "f.py", "methods": ["hello"], "files": [["f.py", len(source)]]}}, theirs)
    running = node.invoke("hello")
    ours.sendall(source)
    ours.close()
    assert running.read() == b"hello world"
    assert running.done() == {"outcome": "returned"}


def test_a_method_that_was_not_loaded_cannot_be_invoked(start):
    node = start(HELLO + "\ndef hidden(api): pass\n", "hello")
    output, end = node.run("hidden")
    assert output == b"" and end["outcome"] == "failed"
    output, end = start().run("hello")
    assert output == b"" and end["outcome"] == "failed"


def test_invocations_run_at_the_same_time_and_calls_find_their_callers(start):
    node = start(
        """
import threading
def ask(api, host, threads):
    def one(number):
        try:
            api.connect(f"{host}-{number}", 80)
        except OSError as error:
            results[number] = type(error).__name__
    results = {}
    workers = [threading.Thread(target=one, args=(number,)) for number in range(threads)]
    for worker in workers: worker.start()
    for worker in workers: worker.join()
    api.output.write(" ".join(results[number] for number in range(threads)).encode())
""",
        "ask",
    )
    node.manual.add("net.connect")
    first = node.invoke("ask", host="a", threads=3)
    second = node.invoke("ask", host="b", threads=3)
    calls = {call["arguments"]["host"]: call for call in (node.call() for _ in range(6))}
    assert len({call["call"] for call in calls.values()}) == 6
    assert all(call["invocation"] == {"a": 1, "b": 2}[host[0]] for host, call in calls.items())
    kinds = {"b-2": "busy", "a-1": "resolve", "b-0": "refused", "a-2": "unreachable", "a-0": "timeout", "b-1": "bad-call"}
    for host, kind in kinds.items():
        node.deny(calls[host], kind)
    assert second.read() == b"Refused BadCall Busy" and second.done()["outcome"] == "returned"
    assert first.read() == b"Timeout NameNotFound Unreachable" and first.done()["outcome"] == "returned"


def test_what_is_printed_goes_to_the_log_of_its_invocation(start):
    node = start(
        """
import sys, threading
def speak(api, word):
    print(word, 1)
    print("no end of line", end=" ")
    print("until here", file=sys.stderr)
    thread = threading.Thread(target=print, args=(word, "from a thread"))
    thread.start(); thread.join()
    api.log("two\\nlines")
    api.log("x" * 3000)
    api.log("\\ud800 lone \\x00")
    print("z" * 5000)
    print("last", end="")
""",
        "speak",
    )
    first, second = node.invoke("speak", word="a"), node.invoke("speak", word="b")
    for running, word in ((first, "a"), (second, "b")):
        assert running.done() == {"outcome": "returned"}
        assert running.logs[:5] == [f"{word} 1", "no end of line until here", f"{word} from a thread", "two", "lines"]
        assert running.logs[5] == "x" * 999 + "…"
        assert running.logs[6] == "? lone \x00"
        assert running.logs[7] == "z" * 999 + "…"
        assert running.logs[8:] == ["last"]


def test_the_declared_length_is_told_first_and_kept(start):
    node = start(
        """
def right(api):
    api.output.length(10)
    api.output.write(b"12345"); api.output.write(bytearray(b"67890"))
def more(api):
    api.output.length(3)
    api.output.write(b"123")
    api.output.write(b"4")
def late(api):
    api.output.write(b"1")
    api.output.length(3)
def twice(api):
    api.output.length(0); api.output.length(0)
def wrong(api, value):
    api.output.length(value)
""",
        *("right", "more", "late", "twice", "wrong"),
    )
    running = node.invoke("right")
    assert running.read() == b"1234567890" and running.done() == {"outcome": "returned"} and running.length == 10
    output, end = node.run("more")
    assert output == b"123" and "exceed" in end["error"]
    assert "before its first byte" in node.run("late")[1]["error"]
    assert node.run("twice")[1]["outcome"] == "failed"
    for value in (-1, 1.5, True, "3", None):
        assert node.run("wrong", value=value)[1]["error"].startswith("ValueError")


def test_input_is_a_file_and_streams_both_ways(start):
    node = start(
        """
def echo(api):
    for chunk in api.input:
        api.output.write(chunk)
def lines(api):
    for line in iter(api.input.readline, b""):
        api.output.write(line.upper())
def exact(api):
    api.output.write(b"[" + api.input.read(5) + b"]" + api.input.read())
def into(api):
    buffer = bytearray(4)
    count = api.input.readinto(buffer)
    api.output.write(b"%d" % count + buffer)
def copy(api):
    import shutil
    shutil.copyfileobj(api.input, api.output)
""",
        *("echo", "lines", "exact", "into", "copy"),
    )
    running = node.invoke("echo")
    for piece in (b"one", b"two", b"three"):
        running.stream.sendall(piece)
        assert running.stream.recv(100) == piece
    running.stream.shutdown(socket.SHUT_WR)
    assert running.read() == b"" and running.done() == {"outcome": "returned"}
    for method, expected in (("lines", b"ABC\nDE"), ("exact", b"[abc\nd]e"), ("into", b"4abc\n"), ("copy", b"abc\nde")):
        running = node.invoke(method)
        running.stream.sendall(b"abc\n")
        running.stream.sendall(b"de")
        running.stream.shutdown(socket.SHUT_WR)
        assert (method, running.read()) == (method, expected)


def test_a_function_waits_while_its_reader_is_slow_and_a_large_output_arrives(start):
    node = start(
        """
def large(api, count):
    block = bytes(range(256)) * 4096
    for number in range(count):
        assert api.output.write(block) == len(block)
        api.log(number)
""",
        "large",
    )
    running = node.invoke("large", count=20)
    # Nothing is read, so it stands still within the first blocks: the socket's buffers hold less than one.
    first = running.stream.recv(1)
    assert len(running.logs) <= 1
    output = first + running.read()
    assert len(output) == 20 << 20 and output == bytes(range(256)) * (20 << 12)
    assert running.done() == {"outcome": "returned"} and running.logs == [str(number) for number in range(20)]


def test_input_that_is_not_read_does_not_spoil_the_output(start):
    node = start("def f(api):\n    api.input.read(1)\n    api.output.write(b'done')\n", "f")
    running = node.invoke("f")
    running.stream.sendall(b"x" * 100_000)
    assert running.done() == {"outcome": "returned"}
    assert running.read() == b"done"


def test_a_client_that_left_is_a_failure_of_the_invocation_only(start):
    node = start(HELLO + "\ndef flood(api):\n    while True: api.output.write(bytes(65536))\n", "flood", "hello")
    running = node.invoke("flood")
    running.stream.recv(10)
    running.stream.close()
    node.send({"cancel": running.number})
    end = running.done()
    assert end["outcome"] == "failed" and end["error"].startswith(("BrokenPipeError", "ConnectionResetError"))
    assert running.logs == []
    assert node.run("hello")[0] == b"hello world"


def test_a_function_may_close_its_stream_and_its_descriptors(start):
    node = start(
        HELLO
        + """
import os
def ends(api):
    api.output.write(b"all")
    api.output.close()
    api.input.read()
def after(api):
    api.output.close()
    api.output.write(b"more")
def brute(api):
    os.close(api.output.fileno())
def severs(api):
    os.close(3)
    import time
    time.sleep(60)
""",
        *("hello", "ends", "after", "brute", "severs"),
    )
    running = node.invoke("ends")
    assert running.read() == b"all"
    running.stream.shutdown(socket.SHUT_WR)
    assert running.done() == {"outcome": "returned"}
    assert node.run("after")[1]["error"] == "ValueError: the output is closed"
    assert node.run("brute") == (b"", {"outcome": "returned"})
    assert node.run("hello") == (b"hello world", {"outcome": "returned"})


def test_threads_left_behind_can_do_nothing_in_the_name_of_the_ended(start):
    node = start(
        """
import threading
go, tried = threading.Event(), threading.Event()
found = []
def leave(api):
    def later():
        go.wait()
        for attempt in (lambda: api.output.write(b"late"), lambda: api.connect("example.test", 80), lambda: api.input.read(1)):
            try:
                attempt()
                found.append("allowed")
            except (OSError, ValueError) as error:
                found.append(type(error).__name__)
        api.log("late")
        tried.set()
    threading.Thread(target=later).start()
    api.output.write(b"left")
def look(api):
    go.set(); tried.wait()
    api.output.write(" ".join(found).encode())
""",
        *("leave", "look"),
    )
    assert node.run("leave") == (b"left", {"outcome": "returned"})
    output, _ = node.run("look")
    assert output == b"OSError Refused OSError"


def test_an_invocation_that_ended_leaves_nothing_in_memory(start):
    node = start(
        """
import gc
gc.disable()
def good(api):
    print("a line")
    api.output.write(api.input.read())
def bad(api):
    raise ValueError("no")
def left(api):
    kinds = [type(thing).__name__ for thing in gc.get_objects()]
    api.output.write(b"%d %d" % (kinds.count("Invocation"), kinds.count("Api")))
""",
        *("good", "bad", "left"),
    )
    for _ in range(20):
        running = node.invoke("good")
        running.stream.shutdown(socket.SHUT_WR)
        assert (running.read(), running.done()["outcome"]) == (b"", "returned")
        assert node.run("bad")[1]["outcome"] == "failed"
    # Itself, and perhaps the one before it, whose thread reports before it is gone.
    output, _ = node.run("left")
    assert all(int(count) <= 2 for count in output.split()), output


def test_no_finalizer_runs_in_the_thread_that_reads_answers(start):
    node = start(
        """
import gc, os, _thread
threads = []
class Last:
    def __del__(self):
        threads.append(_thread.get_native_id())
def f(api):
    lock = _thread.allocate_lock()
    lock.acquire()
    gc.disable()
    gc.collect()
    gc.set_threshold(1000)
    last = Last()
    last.last = last
    del last
    held = []
    while gc.get_count()[0] < 960:
        held.append([])
    api.output.write(b"x")
    # Nothing is allocated here any more: the next to collect would be the reading thread.
    gc.enable()
    lock.acquire(timeout=0.5)
    gc.collect()
    api.output.write(b"%d of %d" % (threads.count(os.getpid()), len(threads)))
""",
        "f",
    )
    running = node.invoke("f")
    assert running.stream.recv(1) == b"x"
    for _ in range(200):
        ours, theirs = socket.socketpair()
        node.send({"cancel": 12345, "more": [[], {}] * 200}, theirs)
        ours.settimeout(30)
        assert ours.recv(1) == b""
        ours.close()
    assert running.read() == b"0 of 1"


def test_time_left_counts_down(start):
    node = start("def f(api):\n    a, b = api.time_left(), api.time_left()\n    assert 0 < b <= a <= 5, (a, b)\n", "f")
    assert node.run("f", seconds=5) == (b"", {"outcome": "returned"})
    node = start("def f(api):\n    assert api.time_left() == 0\n", "f")
    assert node.run("f", seconds=-1) == (b"", {"outcome": "returned"})


def test_the_process_ends_when_the_node_closes_whatever_it_is_doing(start):
    node = start(
        """
import threading, time, asyncio
def spin(api):
    api.output.write(b"x")
    while True: pass
def sleep(api):
    threading.Thread(target=time.sleep, args=(1000,)).start()
    api.output.write(b"x")
    try:
        while True: time.sleep(1000)
    except BaseException: pass
def ask(api):
    api.output.write(b"x")
    api.connect("example.test", 80)
""",
        *("spin", "sleep", "ask"),
    )
    node.manual.add("net.connect")
    for method in ("spin", "sleep", "ask"):
        assert node.invoke(method).stream.recv(1) == b"x"
    node.call()
    assert node.close() == 0
    # Also while the code is being imported.
    node = start()
    ours, theirs = socket.socketpair()
    source = b"while True: pass"
    node.send({"load": {"code": "f.py", "methods": [], "files": [["f.py", len(source)]]}}, theirs)
    ours.sendall(source)
    ours.close()
    assert node.close() == 0


def test_a_node_that_does_not_speak_the_frames_ends_it(start):
    node = start(HELLO, "hello")
    node._socket.send(b"[1]")
    assert node.wait() == 1


def test_unknown_frames_are_let_pass_and_their_descriptors_closed(start):
    node = start(HELLO, "hello")
    ours, theirs = socket.socketpair()
    node.send({"later": 1}, theirs)
    ours.settimeout(30)
    assert ours.recv(1) == b""
    node.send({"answer": 12345, "ok": None})
    assert node.run("hello")[0] == b"hello world"


def test_packages_of_the_image_are_found_last(start, tmp_path):
    packages = tmp_path / "packages"
    packages.mkdir()
    (packages / "offered.py").write_text("NAME = b'offered'")
    (packages / "json.py").write_text("1 / 0")
    source = "import sys, json, offered\ndef f(api): api.output.write(offered.NAME + sys.path[-1].encode())"
    node = start(source, "f", environment={"BENTO_PACKAGES": str(packages)})
    assert node.run("f")[0] == b"offered" + str(packages).encode()
    assert "ModuleNotFoundError" in start().load({"function.py": b"import offered"})["unloadable"]["error"]
