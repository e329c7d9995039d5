"""Damage to the bytes of a file, of the kinds that disks, networks and enemies do."""

import json
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from io import BytesIO

_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?")
_WORD = re.compile(rb'[A-Za-z_]{2,}|"[^"\n]*"')
_ODD_VALUES = (
    *(b"0", b"-1", b"1e999", b"-1e999", b"NaN", b"Infinity", b"nan", b"inf", b"null", b"true", b'""', b"{}"),
    *(b"[]", b"9" * 20, b"9" * 5000, b"-" + b"9" * 30, b"1e-400", b"4294967296", b"9223372036854775808"),
    *(b"0x10", b"1979-05-27T07:32:00Z", b'"\\u0000"', b'"\\ud800"', b'"../../x"', b'"/etc/passwd"', b"[[1]]"),
    *(b"2147483647", b"1.5", b"'" + b"x" * 5000 + b"'", b'"\x1b[31m"', b"\xff\xfe", b"65536", b"255"),
)
_EXTREMES = (
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    (1 << 63) - 1,
    (1 << 64) - 1,
)

Mutation = Callable[[random.Random, bytes], bytes]


def mutate(choice: random.Random, content: bytes, others: list[bytes]) -> bytes:
    """Return damaged content.

    Args:
        choice: decides everything.
        content: of an intact file.
        others: of other files, whose beginnings may be put before the rest of this one.
    """
    for _ in range(choice.choice((1, 1, 1, 2, 3))):
        content = _one(choice, content, others)
    return content


def _one(choice: random.Random, content: bytes, others: list[bytes]) -> bytes:
    if content[:8] == b"\x89PNG\r\n\x1a\n" and choice.random() < 0.5:
        return _png(choice, content)
    if content[:4] == b"PK\x03\x04" and choice.random() < 0.5:
        return _zip(choice, content)
    if len(content) > 10 and content[8:9] == b"{" and choice.random() < 0.6:
        return _header(choice, content)
    text = _is_text(content)
    if text and choice.random() < 0.75:
        return _text(choice, content)
    return (
        choice.choice(_BYTES)(choice, content) if choice.random() < 0.9 else _splice(choice, content, others)
    )


def _place(choice: random.Random, content: bytes) -> int:
    """A position, beginnings more often, where headers are."""
    return int(len(content) * choice.random() ** choice.choice((1, 1, 4)))


def _flip(choice: random.Random, content: bytes) -> bytes:
    changed = bytearray(content or b"\0")
    for _ in range(choice.choice((1, 1, 2, 8))):
        changed[_place(choice, bytes(changed))] ^= 1 << choice.randrange(8)
    return bytes(changed)


def _cut(choice: random.Random, content: bytes) -> bytes:
    return content[: _place(choice, content)]


def _remove(choice: random.Random, content: bytes) -> bytes:
    start = _place(choice, content)
    return content[:start] + content[start + choice.choice((1, 2, 4, 64, 1024)) :]


def _repeat(choice: random.Random, content: bytes) -> bytes:
    start, length = _place(choice, content), choice.choice((1, 4, 64, 1024))
    return content[: start + length] * choice.choice((1, 1, 2)) + content[start:]


def _noise(choice: random.Random, content: bytes) -> bytes:
    start, length = _place(choice, content), choice.choice((1, 4, 16, 256))
    return content[:start] + choice.randbytes(length) + content[start + length :]


def _extreme(choice: random.Random, content: bytes) -> bytes:
    length = choice.choice((1, 2, 4, 8))
    value = choice.choice(_EXTREMES) & ((1 << 8 * length) - 1)
    start = _place(choice, content)
    return (
        content[:start] + value.to_bytes(length, choice.choice(("little", "big"))) + content[start + length :]
    )


def _other(choice: random.Random, content: bytes) -> bytes:
    return choice.choice(
        (b"", b"\0", choice.randbytes(choice.randrange(4096)), b"<!DOCTYPE html><p>quota", b"\0" * 9999)
    )


def _splice(choice: random.Random, content: bytes, others: list[bytes]) -> bytes:
    other = choice.choice(others)
    return other[: _place(choice, other)] + content[_place(choice, content) :]


_BYTES: tuple[Mutation, ...] = (
    _flip,
    _flip,
    _flip,
    _cut,
    _cut,
    _remove,
    _repeat,
    _noise,
    _extreme,
    _extreme,
    _other,
)


def _is_text(content: bytes) -> bool:
    try:
        return "\0" not in content[:4096].decode()
    except UnicodeDecodeError:
        return False


def _text(choice: random.Random, content: bytes) -> bytes:
    """Another value, word, nesting or order of lines."""
    kind = choice.randrange(7)
    if kind <= 2 and (found := list(_NUMBER.finditer(content))):
        match = choice.choice(found)
        return content[: match.start()] + choice.choice(_ODD_VALUES) + content[match.end() :]
    if kind <= 4 and (found := list(_WORD.finditer(content))):
        match = choice.choice(found)
        new = choice.choice((*_ODD_VALUES, *(other[0] for other in found)))
        return content[: match.start()] + new + content[match.end() :]
    if kind == 5:
        deep = choice.choice((50, 1000, 100_000))
        opening, closing = choice.choice(((b"[", b"]"), (b'{"a":', b"}"), (b"{a=", b"}"), (b"a.", b"")))
        nested = opening * deep + b"1" + closing * deep
        if found := list(_NUMBER.finditer(content)):
            match = choice.choice(found)
            return content[: match.start()] + nested + content[match.end() :]
        return nested
    lines = content.splitlines(keepends=True) or [b""]
    line = choice.randrange(len(lines))
    change = choice.randrange(4)
    if change == 0:
        del lines[line]
    elif change == 1:
        lines.insert(line, lines[choice.randrange(len(lines))])
    elif change == 2:
        lines[line] = (
            choice.choice((b"\xef\xbb\xbf", b"\xff", b"\0", b"\r", b"= = =\n", b"[[x]]\n")) + lines[line]
        )
    else:
        choice.shuffle(lines)
    return b"".join(lines)


def _png(choice: random.Random, content: bytes) -> bytes:
    """Damage inside a chunk, whose checksum is right nevertheless; or a chunk that brings trouble."""
    chunks, start = [], 8
    while start + 12 <= len(content):
        (length,) = struct.unpack(">I", content[start : start + 4])
        chunks.append((content[start + 4 : start + 8], content[start + 8 : start + 8 + length]))
        start += 12 + length
    if not chunks or choice.random() < 0.25:
        kind = choice.choice(
            (b"tEXt", b"zTXt", b"iCCP", b"eXIf", b"tRNS", b"PLTE", b"gAMA", b"iTXt", b"acTL", b"fcTL")
        )
        body = choice.choice(
            (b"", b"a\0\0" + zlib.compress(b"x" * choice.choice((9, 1 << 22))), choice.randbytes(40))
        )
        chunks.insert(choice.randrange(len(chunks) + 1), (kind, body))
    else:
        number = choice.randrange(len(chunks))
        kind, body = chunks[number]
        chunks[number] = kind, choice.choice(_BYTES)(choice, body)
    parts = [content[:8]]
    for kind, body in chunks:
        parts.append(struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)))
    return b"".join(parts)


def _zip(choice: random.Random, content: bytes) -> bytes:
    """Another name or other contents of a member, in an archive that is sound."""
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except Exception:  # it has been damaged before
        return _flip(choice, content)
    number = choice.randrange(len(members) or 1)
    if members and choice.random() < 0.6:
        members[number] = members[number][0], choice.choice(_BYTES)(choice, members[number][1])
    else:
        name = choice.choice(
            (
                "../x.png",
                "/x.png",
                "a\\b.png",
                "\0.png",
                "x" * 300 + ".png",
                "",
                "C:/x.png",
                "é.png",
                "a/",
                "\x1b[31m.png",
            )
        )
        members.insert(number, (name, b"" if choice.random() < 0.5 else content[:99]))
    made = BytesIO()
    with zipfile.ZipFile(made, "w", choice.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for name, body in members:
            archive.writestr(zipfile.ZipInfo(name or "x"), body)
    return made.getvalue()


def _header(choice: random.Random, content: bytes) -> bytes:
    """Another header of a safetensors file, whose length is right nevertheless."""
    (length,) = struct.unpack("<Q", content[:8])
    header = content[8 : 8 + min(length, len(content))]
    if choice.random() < 0.3:
        try:
            fields = json.loads(header)
            name = choice.choice(sorted(fields))
            fields[choice.choice((name, "x", ""))] = choice.choice(
                (
                    {
                        "dtype": choice.choice(("F8", "F64", "BOOL", "X")),
                        "shape": [1 << 40],
                        "data_offsets": [0, 4],
                    },
                    {"dtype": "F32", "shape": [], "data_offsets": [0, 4]},
                    {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]},
                    *([], 0, None, {"a": "b"}, {"ssdiff": "[" * 9999}, fields[name]),
                )
            )
            header = json.dumps(fields).encode()
        except (ValueError, TypeError, IndexError, RecursionError):
            header = _text(choice, header)
    else:
        header = _text(choice, header)
    return struct.pack("<Q", len(header)) + header + content[8 + length :]
