"""Describes what a function raised: the error in one line, and a traceback of the function's own frames.

Neither may trouble the runtime, whatever the exception is made of, nor tell anything of the runtime or the machine: frames of other
files are left out, and paths are shown as they are in the bundle. `traceback` is not used: it would show every frame, and needs
`linecache`, `tokenize` and `re`, some 12 ms and a few descriptors, when there may be neither.
"""

from bento.frames import clean

ERROR_CHARACTERS_MAX = 1_024
TRACEBACK_CHARACTERS_MAX = 6_000

FRAMES_MAX = 30
"""Frames shown of each exception: the outer and the inner half of these."""

CHAIN_MAX = 4
"""Exceptions shown of a chain, from the last one back."""

_CAUSE = "\nThe above exception was the direct cause of the following exception:\n\n"
_CONTEXT = "\nDuring handling of the above exception, another exception occurred:\n\n"


def describe(error: BaseException, directory: str) -> tuple[str, str]:
    """The error's text and its traceback."""
    try:
        traceback = _chain(error, directory.rstrip("/") + "/")
    except MemoryError:
        raise
    except BaseException:
        traceback = ""
    return _line(error), _shorten(clean(traceback, 10 * TRACEBACK_CHARACTERS_MAX))


def _line(error: BaseException) -> str:
    try:
        # Not `type(error).__name__`: a metaclass may answer that.
        kind = clean(type.__dict__["__name__"].__get__(type(error)), 200)
    except BaseException:
        kind = "an exception"
    try:
        text = clean(str(error), ERROR_CHARACTERS_MAX)
    except BaseException:
        text = "(its text cannot be had)"
    return clean(f"{kind}: {text}" if text else kind, ERROR_CHARACTERS_MAX)


def _chain(error: BaseException, prefix: str) -> str:
    parts = []
    link = ""
    for _ in range(CHAIN_MAX):
        parts.append(_one(error, prefix) + link)
        cause, context = error.__cause__, error.__context__
        if cause is not None:
            error, link = cause, _CAUSE
        elif context is not None and not error.__suppress_context__:
            error, link = context, _CONTEXT
        else:
            break
    return "".join(reversed(parts))


def _one(error: BaseException, prefix: str) -> str:
    lines = []
    outer: list[tuple[str, int, str]] = []
    inner: list[tuple[str, int, str]] = []
    left_out = 0
    step = error.__traceback__
    while step is not None:
        code = step.tb_frame.f_code
        if code.co_filename.startswith(prefix):
            frame = (code.co_filename.removeprefix(prefix), step.tb_lineno, code.co_name)
            if len(outer) < FRAMES_MAX // 2:
                outer.append(frame)
            else:
                inner.append(frame)
                if len(inner) > FRAMES_MAX // 2:
                    del inner[0]
                    left_out += 1
        step = step.tb_next
    for name, line, where in outer:
        lines.append(_frame(prefix, name, line, where))
    if left_out:
        lines.append(f"  ... {left_out} frames more ...\n")
    for name, line, where in inner:
        lines.append(_frame(prefix, name, line, where))
    if isinstance(error, SyntaxError) and str(error.filename).startswith(prefix):
        lines.append(_frame(prefix, str(error.filename).removeprefix(prefix), error.lineno or 0, ""))
    if lines:
        lines.insert(0, "Traceback (most recent call last):\n")
    return "".join(lines) + _line(error) + "\n"


def _frame(prefix: str, name: str, line: int, where: str) -> str:
    place = f'  File "{name}", line {line}' + (f", in {where}\n" if where else "\n")
    source = _source(prefix + name, line)
    return place + (f"    {source}\n" if source else "")


def _source(path: str, wanted: int) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(file, 1):
                if number == wanted:
                    return clean(line.strip(), 200)
    except OSError:
        pass
    return ""


def _shorten(text: str) -> str:
    if len(text) <= TRACEBACK_CHARACTERS_MAX:
        return text
    mark = "\n  ... the middle is cut out ...\n"
    half = (TRACEBACK_CHARACTERS_MAX - len(mark)) // 2
    return text[:half] + mark + text[-half:]
