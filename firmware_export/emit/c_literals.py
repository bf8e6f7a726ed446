"""The one checked writer of C text: names, comments and words. Knows C, knows nothing of policies."""

import re
from collections.abc import Iterable

_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*")
_LONGEST_NAME = 48
_LONGEST_MACRO_PART = 40
_WORDS_PER_LINE = 8
_INTEGERS_PER_LINE = 16
_WIDTH = 100
_SUFFIXES = ("_params", "_golden", "_contract")  # of the files beside NAME.c
# A policy's name becomes a prefix, a file name and a C++ namespace.
_KEYWORDS = """
    alignas alignof and and_eq asm auto bitand bitor bool break case catch char char8_t char16_t
    char32_t class co_await co_return co_yield compl concept const const_cast consteval constexpr
    constinit continue decltype default delete do double dynamic_cast else enum explicit export extern
    false float for friend goto if inline int long mutable namespace new noexcept not not_eq nullptr
    operator or or_eq private protected public register reinterpret_cast requires restrict return short
    signed sizeof static static_assert static_cast struct switch template this thread_local throw true
    try typedef typeid typename union unsigned using virtual void volatile wchar_t while xor xor_eq
"""
_SYSTEM_HEADERS = """
    aio alloca arpa assert complex cpio ctype dirent dlfcn endian errno fcntl fenv float fnmatch ftw
    glob grp iconv inttypes iso646 langinfo libgen limits locale malloc math memory monetary netdb
    nl_types poll pthread pwd regex sched search semaphore setjmp signal spawn std stdalign stdarg
    stdatomic stdbit stdbool stdckdint stddef stdint stdio stdlib stdnoreturn string strings stropts
    syslog tar termios tgmath threads time uchar ulimit unistd utime utmpx values wchar wctype
    wordexp main linux unix arm posix
"""


def c_name_problem(name: str) -> str | None:
    """Say why `name` cannot prefix C symbols and name C files, or return None."""
    if not _IDENTIFIER.fullmatch(name) or len(name) > _LONGEST_NAME:
        return f"it must be letters, digits and single underscores, {_LONGEST_NAME} at most, a letter first"
    if name in _KEYWORDS.split():
        return "it is a keyword of C or C++"
    if name.lower() in _SYSTEM_HEADERS.split():
        return f"'{name}' or '{name}.h' already means something to C compilers"
    if name.lower().startswith("eqrl"):
        return "names that begin with 'eqrl' belong to the runtime"
    if name.lower().endswith(_SUFFIXES):
        return f"names that end in {' or '.join(map(repr, _SUFFIXES))} belong to the files of another policy"
    return None


def c_comment(text: str) -> str:
    """Return foreign text that is safe inside a C comment: one line, no delimiter, nothing invisible."""
    printable = "".join(ch if ch.isprintable() else " " for ch in text)
    single_spaced = " ".join(printable.replace("\\", "/").split())
    # A slash beside a star begins or ends a comment; "??/" at a line's end joins lines in C99.
    return re.sub(r"(?<=[*/?])(?=[*/?])", " ", single_spaced)


def c_macro_parts(names: Iterable[str]) -> list[str]:
    """Return, for each foreign name, what can follow a prefix in a macro's name; no two are the same."""
    taken: set[str] = set()
    parts = []
    for index, name in enumerate(names):
        words = re.sub(r"[^A-Z0-9]+", "_", name.upper()).strip("_")[:_LONGEST_MACRO_PART].rstrip("_")
        part = words or f"{index}"
        while part in taken:
            part = f"{part}_{index}"
        taken.add(part)
        parts.append(part)
    return parts


def c_call(function: str, arguments: list[str]) -> str:
    """Break a call into lines of at most _WIDTH columns."""
    lines, line = [], f"{function}("
    for i, argument in enumerate(arguments):
        piece = argument + (");" if i == len(arguments) - 1 else ", ")
        if len(line) + len(piece) > _WIDTH - 8 and not line.endswith("("):
            lines.append(line.rstrip())
            line = "    "
        line += piece
    return "\n        ".join([*lines, line])


def c_integers(values: Iterable[int], suffix: str = "") -> list[str]:
    """Return the rows of an initialiser in decimals."""
    flat = [f"{value}{suffix}" for value in values]
    rows = (flat[i : i + _INTEGERS_PER_LINE] for i in range(0, len(flat), _INTEGERS_PER_LINE))
    return [f"{', '.join(row)}," for row in rows]


def c_words(values: bytes) -> str:
    """Return the rows of a uint32_t initialiser for little-endian `values`, padded with zeros to a word."""
    padded = values + bytes(-len(values) % 4)
    words = [f"0x{int.from_bytes(padded[i : i + 4], 'little'):08X}u" for i in range(0, len(padded), 4)]
    lines = (words[i : i + _WORDS_PER_LINE] for i in range(0, len(words), _WORDS_PER_LINE))
    return "".join(f"    {', '.join(line)},\n" for line in lines)


def c_bytes(values: bytes) -> str:
    """Return the rows of an unsigned char initialiser."""
    lines = (values[i : i + 12] for i in range(0, len(values), 12))
    return "".join(f"    {', '.join(f'0x{b:02x}' for b in line)},\n" for line in lines)
