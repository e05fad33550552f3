"""The runtime in the jail: loads a function's code and runs its methods, each invocation in a thread of its own.

The main thread does nothing but read frames from descriptor 3; so an answer finds its caller whatever the function is doing, and
the process ends at once when the node closes. No code of the function runs in it. The runtime protects the node from nothing (the
jail does), and it does not check the manifest (the node did).

Only modules that are built into the interpreter are imported at start: `posix` instead of `os`, `_thread` instead of `threading`,
`_socket` instead of `socket`. Together that saves some 12 ms of every cold start, of about 10 that bare Python takes.
"""

import _socket
import _thread
import errno
import gc
import io
import itertools
import posix
import sys
import time

from bento.api import CHUNK_BYTES, LOG_CHARACTERS_MAX, Api, Call, Refused, check_ran
from bento.frames import FRAME_BYTES_MAX, decode, encode

DIRECTORY = "/tmp/function"
"""Where the bundle is written."""

DESCRIPTOR = 3
"""Where the node is."""

STACK_BYTES = 1280 * 1024
"""Stack of each thread. The usual 8 MiB would count in full against the memory bound; recursion to Python's limit fits into this in
all but three of the forty ways of recursing that were tried, and two of those overflow 8 MiB as well."""

RESERVE_BYTES = 2 * 1024 * 1024
"""Address space set aside, and let go when memory has run out: Python's allocator asks the kernel for 1 MiB at a time."""

_BOUNDS = {
    errno.ENOSPC: "scratch",
    errno.EFBIG: "scratch",
    errno.EMFILE: "descriptors",
    errno.ENOMEM: "memory",
}

_start_thread = _thread.start_new_thread


def main(directory: str = DIRECTORY, descriptor: int = DESCRIPTOR) -> None:
    """Serves the node until it closes; then ends the process, whatever threads a function has left behind."""
    status = 1
    try:
        Runtime(directory, descriptor).serve()
        status = 0
    finally:
        posix._exit(status)


class Invocation:
    """One running method."""

    __slots__ = ("_runtime", "api", "ended", "line", "number", "out_of_memory", "stream")

    def __init__(self, runtime: "Runtime", number: int, stream: _socket.socket, seconds: float) -> None:
        self._runtime = runtime
        self.number = number
        self.stream = stream
        self.ended = False
        self.line = ""
        # Made now: when it is needed there may be no memory to make it.
        self.out_of_memory = _killed(number, "memory")
        self.api = Api(stream, self.ask, seconds)

    def ask(self, name: str, arguments: dict, notify: object = None) -> Call:
        """Sends a call on behalf of this invocation."""
        if self.ended:
            raise Refused(errno.EACCES, "the invocation has ended")
        return self._runtime.ask(self.number, name, arguments, notify)

    def print(self, text: str) -> None:
        """Collects text and logs it line by line."""
        *lines, self.line = (self.line + text).split("\n")
        if len(self.line) > LOG_CHARACTERS_MAX:
            lines.append(self.line)
            self.line = ""
        api = self.api
        for line in lines if api is not None else ():
            api.log(line)

    def end(self) -> None:
        """Ends the output, and all that the function could still do with it."""
        try:
            if self.line:
                self.print("\n")
        finally:
            self.ended = True
            # Opens the circle that it makes with its `api`. The collector of circles does nothing in the main thread, which is where it
            # mostly starts, so that every invocation would stay for ever: some hundred bytes, until a bound is met.
            self.api = None
            self._close()

    def _close(self) -> None:
        try:
            self.stream.shutdown(_socket.SHUT_RDWR)
            # Unread input is read off: closing over it would give the node ECONNRESET in place of the output's end.
            while self.stream.recv(CHUNK_BYTES):
                pass
        except OSError:
            pass  # The function or the client closed it already.
        finally:
            self.stream.close()


class Runtime:
    """The function's end of the socket to the node."""

    def __init__(self, directory: str, descriptor: int) -> None:
        self._directory = directory
        self._node = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, descriptor)
        # One byte more than a frame may have. Kept, so that receiving takes next to no memory.
        self._frame = bytearray(FRAME_BYTES_MAX + 1)
        self._methods: dict[str, object] | None = None
        # Held while the code is imported: an invocation that comes right behind its code waits for it.
        self._loading = _thread.allocate_lock()
        self._invocations: dict[int, Invocation] = {}
        self._calls: dict[int, Call] = {}
        self._numbers = itertools.count(1)
        self._threads: dict[int, Invocation] = {}
        self._main = _thread.get_ident()
        self._reserve: bytearray | None = None

    def serve(self) -> None:
        """Reads frames until the node closes."""
        self._prepare()
        try:
            while True:
                count, ancillary, _, _ = self._node.recvmsg_into(
                    [self._frame], _socket.CMSG_SPACE(4), _socket.MSG_CMSG_CLOEXEC
                )
                if count == 0:
                    return
                self._receive(count, ancillary)
        except ConnectionError:
            return  # The node has closed with frames of ours unread.
        except MemoryError:
            # Whether a frame was lost is not known, and a lost answer would leave its caller waiting for ever.
            self._reserve = None
            for invocation in list(self._invocations.values()):
                self._send(invocation.out_of_memory)
            raise

    def ask(self, invocation: int, name: str, arguments: dict, notify: object = None) -> Call:
        """Sends a call to the node."""
        if _thread.get_ident() == self._main:
            # A finalizer after all. Waiting would keep the answer from being read.
            raise Refused(errno.EACCES, "no calls from a finalizer")
        number = next(self._numbers)
        data = encode({"call": number, "invocation": invocation, "name": name, "arguments": arguments})
        call = self._calls[number] = Call(notify)
        try:
            self._node.send(data)
        except BaseException:
            del self._calls[number]
            raise
        return call

    def current(self) -> Invocation | None:
        """The invocation that this thread works for."""
        thread = _thread.get_ident()
        if thread == self._main or self._methods is None:
            return None
        invocation = self._threads.get(thread)
        if invocation is not None and not invocation.ended:
            return invocation
        # A thread from the import, or one that outlived its invocation (a pool's): clear only if no two run.
        running = list(self._invocations.values())
        return running[0] if len(running) == 1 else None

    def asker(self) -> object:
        """How this thread's code asks the node; for libraries, which have no `api`."""
        invocation = self.current()
        if invocation is None:
            raise Refused(errno.EACCES, "connections are made only while an invocation runs, and by its own threads")
        return invocation.ask

    def _prepare(self) -> None:
        _thread.stack_size(STACK_BYTES)
        # Threads that a function starts work for the invocation that started them.
        _thread.start_new_thread = _thread.start_new = self._start_heir
        sys.stdout = sys.stderr = Printer(self)
        sys.meta_path.insert(0, SocketFinder(self.asker))
        gc.callbacks.append(self._collecting)
        # The package is found without its path entry from here on; with it, every other import would search it first.
        home = __file__.rpartition("/")[0].rpartition("/")[0]
        if home in sys.path:
            sys.path.remove(home)
        packages = posix.environ.get(b"BENTO_PACKAGES")
        if packages:
            sys.path.append(packages.decode())
        # Zeros straight from the system: a bytearray would be written to, which took 1.5 ms of the start and kept the memory resident.
        self._reserve = bytes(RESERVE_BYTES)

    def _collecting(self, phase: str, _info: dict) -> None:
        """Keeps the collector of cycles from running a function's finalizers in the main thread."""
        # One that waits for a lock, such as that of `logging`, could wait for a thread that waits for an answer, which nobody
        # would read. The collector cannot be kept from starting in one thread; but what is frozen meanwhile it leaves alone.
        if _thread.get_ident() == self._main:
            if phase == "start":
                gc.freeze()
            else:
                gc.unfreeze()

    def _receive(self, count: int, ancillary: list) -> None:
        stream = None
        if ancillary:
            descriptor = int.from_bytes(ancillary[0][2][:4], sys.byteorder)
            stream = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, descriptor)
        with memoryview(self._frame) as view:
            try:
                frame = decode(view[:count])
            except MemoryError:
                self._reserve = None
                frame = decode(view[:count])
        if "answer" in frame:
            call = self._calls.pop(frame["answer"], None)
            if call is not None:
                call.answer(frame.get("ok"), frame.get("error"), stream)
        elif "invoke" in frame:
            self._invoke(frame, stream)
        elif "load" in frame:
            if not self._loading.acquire(False):
                raise ValueError("a load while another is under way")
            # In a thread as well: while code is imported the node may close.
            try:
                _start_patiently(self._load, (frame["load"], stream))
            except RuntimeError as error:
                self._loading.release()
                self._send(self._unloadable(error))
        # A cancelled invocation finds its stream closed; and what later nodes may say besides is not for this runtime.

    def _load(self, order: dict, stream: _socket.socket | None) -> None:
        try:
            if self._methods is not None:
                raise RuntimeError("a function is loaded already")
            if stream is None:
                raise OSError(errno.EMFILE, "no descriptor is left for the bundle")
            self._write(order["files"], stream)
            stream.close()
            self._methods = self._import(order["code"], order["methods"])
            report = encode({"loaded": {"methods": order["methods"]}})
        except BaseException as error:
            report = self._unloadable(error)
        finally:
            self._loading.release()
        self._send(report)

    def _write(self, files: list, stream: _socket.socket) -> None:
        _make_directory(self._directory)
        buffer = bytearray(CHUNK_BYTES)
        with memoryview(buffer) as view:
            for name, size in files:
                parts = name.split("/")
                if "\0" in name or any(part in ("", ".", "..") for part in parts):
                    raise ValueError("a file of the bundle has a name that is not allowed")
                for depth in range(1, len(parts)):
                    _make_directory("/".join([self._directory, *parts[:depth]]))
                with io.FileIO(f"{self._directory}/{name}", "x") as file:
                    while size > 0:
                        count = stream.recv_into(view[: min(size, CHUNK_BYTES)])
                        if count == 0:
                            raise ValueError("the bundle ends too early")
                        size -= count
                        written = 0
                        while written < count:
                            written += file.write(view[written:count])
            if stream.recv_into(view[:1]):
                raise ValueError("the bundle is longer than announced")

    def _import(self, code: str, methods: list) -> dict[str, object]:
        module_name = code.removesuffix(".py").replace("/", ".")
        if "." in code.removesuffix(".py"):
            raise ImportError(f"the code cannot be called {code}: a module has no dot in its name")
        package = module_name.partition(".")[0]
        if package in sys.modules or package in sys.stdlib_module_names:
            raise ImportError(f"the code cannot be called {code}: Python has a module of this name")
        # Before the standard library, as for any program; and only now, since an import before would remember it as missing.
        sys.path.insert(0, self._directory)
        __import__(module_name)
        module = sys.modules[module_name]
        found = {}
        for name in methods:
            found[name] = getattr(module, name, None)
            if not callable(found[name]):
                raise AttributeError(f"{code} has no method {name}")
        return found

    def _invoke(self, frame: dict, stream: _socket.socket | None) -> None:
        number = frame["invoke"]
        report = None
        try:
            if stream is None:
                report = _killed(number, "descriptors")
            else:
                invocation = Invocation(self, number, stream, frame["seconds"])
                self._invocations[number] = invocation
                _start_patiently(self._run, (invocation, frame["method"], frame["arguments"]))
        except MemoryError:
            self._reserve = None
            report = _killed(number, "memory")
        except RuntimeError:
            # A thread that cannot start does not say why; where there is hardly room for its stack, that was it.
            try:
                bytearray(2 * STACK_BYTES)
                report = _killed(number, "processes")
            except MemoryError:
                report = _killed(number, "memory")
        if report is not None:
            self._invocations.pop(number, None)
            if stream is not None:
                stream.close()
            self._send(report)

    def _run(self, invocation: Invocation, method: str, arguments: dict) -> None:
        thread = _thread.get_ident()
        try:
            self._threads[thread] = invocation
            with self._loading:
                if self._methods is None or method not in self._methods:
                    raise LookupError("no such method is loaded")
            check_ran(self._methods[method](invocation.api, **arguments))
            report = b'{"done":%d,"outcome":"returned"}' % invocation.number
        except MemoryError:
            # Nothing more here: the exception still holds all that the method had.
            report = None
        except BaseException as error:
            report = self._describe(invocation.number, error)
        if report is None:
            self._reserve = None
        try:
            invocation.end()
        except BaseException:
            pass  # Only printing the last line can fail, for want of memory; the stream is closed even so.
        self._invocations.pop(invocation.number, None)
        self._threads.pop(thread, None)
        self._send(report or invocation.out_of_memory)
        if self._reserve is None:
            try:
                self._reserve = bytes(RESERVE_BYTES)
            except MemoryError:
                pass

    def _start_heir(self, function: object, arguments: tuple, keywords: dict | None = None) -> int:
        invocation = self.current()
        keywords = {} if keywords is None else keywords
        if invocation is None:
            return _start_thread(function, arguments, keywords)
        return _start_thread(self._run_heir, (invocation, function, arguments, keywords))

    def _run_heir(self, invocation: Invocation, function: object, arguments: tuple, keywords: dict) -> None:
        thread = _thread.get_ident()
        self._threads[thread] = invocation
        try:
            function(*arguments, **keywords)
        finally:
            self._threads.pop(thread, None)

    def _describe(self, number: int, error: BaseException) -> bytes | None:
        """The report of a method that raised; none if there was no memory to make it."""
        try:
            bound = _bound(error)
            if bound is not None:
                return _killed(number, bound)
            # Imported only now: most invocations do not fail.
            from bento.failure import describe

            return _failed(number, *describe(error, self._directory))
        except MemoryError:
            return None
        except BaseException:
            # The import may have met the bound on descriptors, or the exception is made to trouble whoever looks at it.
            return _failed(number, "the error could not be described", "")

    def _unloadable(self, error: BaseException) -> bytes:
        try:
            from bento.failure import describe

            text, traceback = describe(error, self._directory)
            return encode({"unloadable": {"error": text, "traceback": traceback}})
        except BaseException:
            self._reserve = None
            return b'{"unloadable":{"error":"the error could not be described","traceback":""}}'

    def _send(self, data: bytes) -> None:
        try:
            try:
                self._node.send(data)
            except MemoryError:
                self._reserve = None
                self._node.send(data)
        except OSError:
            pass  # The node has closed; the main thread sees it as well and ends the process.


class Printer(io.TextIOBase):
    """Standard output and standard error: what is printed goes to the log of the invocation that printed it."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, text: str) -> int:
        """Logs the lines of the text; drops them where no invocation runs."""
        if not isinstance(text, str):
            raise TypeError("only text can be printed")
        invocation = self._runtime.current()
        if invocation is not None:
            invocation.print(text)
        return len(text)


class SocketFinder:
    """Finds the module `socket` once, and has `bento.net` change it right after its import.

    Importing it at start would take 7 ms; and later than its import is too late, since `ssl` derives a class from it.
    """

    def __init__(self, asker: object) -> None:
        self._asker = asker

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        """The specification of `socket`; none for all other modules."""
        if name != "socket":
            return None
        sys.meta_path.remove(self)
        # Both are in the interpreter already; `importlib.machinery` would be two more files to import.
        from _frozen_importlib_external import PathFinder, SourceFileLoader

        class Loader(SourceFileLoader):
            def exec_module(loader, module: object) -> None:
                super().exec_module(module)
                from bento import net

                net.install(module, self._asker)

        spec = PathFinder.find_spec(name, path, target)
        if spec is not None:
            spec.loader = Loader(spec.loader.name, spec.loader.path)
        return spec


def _bound(error: BaseException) -> str | None:
    """The bound that this exception reports."""
    # Not `isinstance`, which asks the exception what class it has.
    kind = type(error)
    if issubclass(kind, MemoryError):
        return "memory"
    if issubclass(kind, OSError):
        return _BOUNDS.get(error.errno)
    if issubclass(kind, ImportError) and "failed to map segment" in str(error):
        return "memory"
    if issubclass(kind, RuntimeError) and error.args == ("can't start new thread",):
        return "processes"
    return None


def _start_patiently(function: object, arguments: tuple) -> None:
    """Starts a thread, even if another one that has reported its end still needs a moment to be gone."""
    for delay in (0.001, 0.005, 0.02):
        try:
            _start_thread(function, arguments)
            return
        except RuntimeError:
            time.sleep(delay)
    _start_thread(function, arguments)


def _killed(number: int, bound: str) -> bytes:
    return b'{"done":%d,"outcome":"killed","bound":"%s"}' % (number, bound.encode())


def _failed(number: int, error: str, traceback: str) -> bytes:
    return encode({"done": number, "outcome": "failed", "error": error, "traceback": traceback})


def _make_directory(path: str) -> None:
    try:
        posix.mkdir(path, 0o700)
    except FileExistsError:
        pass
