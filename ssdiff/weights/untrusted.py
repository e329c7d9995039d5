"""Weights out of files that others made, which may be anything.

What a file is shows from its first bytes, never from its name. Safetensors cannot hold code. PyTorch's
``.pt`` files are archives around a pickle: the archive is checked before anything of it is read, and the
pickle may name nothing but tensors (``weights_only``); there is no option to trust it further.
"""

from __future__ import annotations

import io
import pickletools
import re
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ssdiff.errors import CheckpointError, UsageError, one_line

# In which entry of a training checkpoint to look for weights: averaged ones first, as they sample best.
_AVERAGED = ("ema", "ema_model", "ema_state_dict", "model_ema", "params_ema")
_RAW = ("state_dict", "model_state_dict", "model", "params")
CONTAINERS = (*_AVERAGED, *_RAW)
_MOST_MEMBERS = 1 << 16
_LONGEST_DIRECTORY = 1 << 24  # bytes of the archive's list of members
_LONGEST_PICKLE = 1 << 26  # bytes of an archive's data.pkl, which holds names and shapes only
_SCANNED = 1 << 24  # bytes of a pickle searched for what was refused
_DEEPEST = 4  # containers in containers
_UNPACK = "decompress it first"
_MAGIC = (
    (b"version https://git-lfs", "a Git LFS pointer", "fetch the real file with `git lfs pull`"),
    (b"\x1f\x8b", "a gzip file", _UNPACK),
    (b"BZh", "a bzip2 file", _UNPACK),
    (b"\xfd7zXZ\x00", "an xz file", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
    (b"Rar!", "a RAR archive", _UNPACK),
    (b"\x89HDF\r\n", "an HDF5 file", "convert it to safetensors"),
    (b"GGUF", "a GGUF file", "convert it to safetensors"),
    (b"\x93NUMPY", "a NumPy array", "convert it to safetensors"),
    (b"\x89PNG", "a PNG image", "give a file of weights"),
    (b"\xff\xd8\xff", "a JPEG image", "give a file of weights"),
)
_AGAIN = "download it again"


def read_weights(path: Path | str, weights: str = "ema") -> dict[str, Tensor]:
    """Read the state dict in a ``.safetensors``, ``.pt``, ``.pth`` or ``.bin`` file; no code of the file is
    run.

    From a training checkpoint that holds several things, the first entry of :data:`CONTAINERS` is taken, and
    again in there. Names are returned as they are, with any prefix.

    Args:
        path: the file.
        weights: ``ema`` or ``raw``: of a training checkpoint the average, or the weights that were trained.

    Returns:
        Tensors on the CPU by name; if the format allows, mapped from the file and unread until used.

    Raises:
        CheckpointError: absent, not weights (says what it is instead), damaged, compressed, or naming
            code; or raw weights are wanted, which only a training checkpoint has.
        UsageError: ``weights`` is neither.
    """
    if weights not in ("ema", "raw"):
        raise UsageError(f"unknown weights {weights!r}", hint="choose one of ema, raw")
    path = Path(path)
    if not path.is_file():
        what = "only a folder, no file of weights" if path.is_dir() else "no file of weights"
        raise CheckpointError(f"{what} at {path}", path=path, hint="check the path")
    try:
        with path.open("rb") as stream:
            head, size = stream.read(512), path.stat().st_size
            if head.startswith(b"PK\x03\x04"):
                pickled = _check_archive(path, stream, size)
                return _state_dict(path, _load_pickle(path, pickled, mmap=True), weights)
            if re.match(rb"\x80[\x02-\x05]", head):
                stream.seek(0)
                return _state_dict(path, _load_pickle(path, stream.read(_SCANNED), mmap=False), weights)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}", path=path) from None
    _refuse_other_kinds(path, head, size)
    if weights == "raw":
        raise _without_raw(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        reason = f"{path} is not a sound safetensors file: {one_line(error)}"
        raise CheckpointError(reason, path=path, hint=_AGAIN) from None


def _refuse_other_kinds(path: Path, head: bytes, size: int) -> None:
    """Return only if the file begins as safetensors do (docs/faults.md, row 19)."""
    kind, hint = _kind(head)
    if kind is None and len(head) > 8 and head[8:9] == b"{":
        declared = int.from_bytes(head[:8], "little")
        if declared <= size - 8:
            return
        kind, hint = f"a truncated safetensors file (header of {declared} bytes, file of {size})", _AGAIN
    if kind is None:
        kind, hint = "of a kind that is not known", "give a .safetensors or PyTorch .pt file"
    raise CheckpointError(f"{path} is {kind}, not model weights", path=path, hint=hint)


def _kind(head: bytes) -> tuple[str | None, str]:
    """What a file is by its first bytes, and what to do about it; None if none of those that are known."""
    if not head:
        return "empty", _AGAIN
    for magic, kind, hint in _MAGIC:
        if head.startswith(magic):
            return kind, hint
    if head[257:262] == b"ustar":
        return "a tar archive", "unpack it first"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<script", b"<!--")):
        return "an HTML page", f"the server sent a page instead of the file; {_AGAIN}, e.g. in a browser"
    if start.startswith(b"<?xml"):
        return "an XML document", f"it may be a server's error message; {_AGAIN}"
    # The last character may be cut off: those of UTF-8 have up to four bytes.
    text = head.decode("utf-8", errors="ignore")
    if len(text.encode()) > len(head) - 4 and all(char.isprintable() or char in "\t\r\n\f" for char in text):
        return f"a text file (it begins {text[:30]!r})", "give a .safetensors or PyTorch .pt file"
    return None, ""


def _check_archive(path: Path, stream: BinaryIO, size: int) -> bytes:
    """Check a PyTorch archive by its list of members, and return its pickle (docs/faults.md, row 18).

    PyTorch never compresses, so what it would read is as long as the file at most.
    """
    _check_directory(path, stream, size)
    try:
        with zipfile.ZipFile(stream) as archive:
            members = archive.infolist()
            names = [member.filename for member in members]
            if any(name.endswith("/constants.pkl") for name in names):
                reason = f"{path} is a TorchScript program, not model weights"
                raise CheckpointError(reason, path=path, hint="save its state_dict() with torch.save")
            for member in sorted(members, key=lambda member: member.file_size, reverse=True):
                _check_member(path, member, size)
            if (total := sum(member.file_size for member in members)) > size:
                raise _suspicious(path, f"its members declare {total} bytes, the file has {size}")
            pickles = [member for member in members if re.fullmatch(r"[^/]+/data\.pkl", member.filename)]
            if len(pickles) != 1 or len(set(names)) != len(names):
                reason = f"{path} is a ZIP archive, but not one of PyTorch's weights"
                raise CheckpointError(reason, path=path, hint="give a .safetensors or PyTorch .pt file")
            if pickles[0].file_size > _LONGEST_PICKLE:
                length = pickles[0].file_size
                raise _suspicious(path, f"data.pkl has {length} bytes, the limit is {_LONGEST_PICKLE}")
            return archive.read(pickles[0])
    except (zipfile.BadZipFile, RuntimeError, ValueError, EOFError, struct.error) as error:
        reason = f"{path} is a damaged archive: {one_line(error)}"
        raise CheckpointError(reason, path=path, hint=_AGAIN) from None


def _check_member(path: Path, member: zipfile.ZipInfo, size: int) -> None:
    name, there = member.filename, member.compress_size
    if name.startswith("/") or "\\" in name or ".." in name.split("/"):
        raise _suspicious(path, f"its member {name[:100]!r} lies outside of it")
    if member.compress_type != zipfile.ZIP_STORED or member.file_size != there:
        raise _suspicious(
            path, f"its member {name[:100]!r} is compressed: {member.file_size} bytes declared, {there} there"
        )
    if member.header_offset + there > size:
        raise _suspicious(path, f"its member {name[:100]!r} declares {there} bytes, the file has {size}")


def _check_directory(path: Path, stream: BinaryIO, size: int) -> None:
    """The list of members ends where the file ends and is not too long to be read.

    PyTorch writes the 64-bit record of it, a pointer to that, and the 32-bit record, 56 + 20 + 22 bytes
    [APPNOTE, sections 4.3.14 to 4.3.16].
    """
    stream.seek(max(size - 98, 0))
    tail = stream.read(98)
    if len(tail) < 22 or tail[-22:-18] != b"PK\x05\x06" or tail[-2:] != b"\0\0":
        reason = f"{path} is a truncated archive: {size} bytes do not end with a list of members"
        raise CheckpointError(reason, path=path, hint=_AGAIN)
    count, length, start = struct.unpack("<HII", tail[-12:-2])
    end = size - 22
    if tail[-42:-38] == b"PK\x06\x07":
        end = size - 98
        if len(tail) < 98 or tail[:4] != b"PK\x06\x06" or tail[64:72] != end.to_bytes(8, "little"):
            raise _suspicious(path, "its list of members is not where it should be")
        count, length, start = struct.unpack("<QQQ", tail[32:56])
    if count > _MOST_MEMBERS or length > _LONGEST_DIRECTORY:
        limits = f"{_MOST_MEMBERS} and {_LONGEST_DIRECTORY}"
        raise _suspicious(path, f"{count} members listed in {length} bytes, the limits are {limits}")
    if start + length != end:
        raise _suspicious(path, f"its list of members ends at byte {start + length}, not at {end}")


def _suspicious(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is not an archive as PyTorch writes it: {reason}; nothing of it was loaded",
        path=path,
        hint="use another source, or safetensors",
    )


def _load_pickle(path: Path, pickled: bytes, mmap: bool) -> object:
    try:
        with warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # a hostile file can make the reader raise anything
        # The reader names what it met, unless it stopped earlier at a protocol that it does not know.
        named = re.search(r"GLOBAL (\S+)", str(error))
        with warnings.catch_warnings(action="ignore"):
            refused = named[1] if named else next(_foreign_globals(pickled), None)
        if refused is not None:
            raise CheckpointError(
                f"{path} names {refused}, which is not part of a tensor; it was refused and no code ran",
                path=path,
                hint="do not trust the file; ask for safetensors, or a state_dict alone",
            ) from None
        said = str(error).rpartition("WeightsUnpickler error:")[2]
        reason = f"{path} cannot be read as PyTorch weights: {one_line(said if said.strip() else error)}"
        raise CheckpointError(reason, path=path, hint=f"{_AGAIN}, or ask for safetensors") from None


def _foreign_globals(pickled: bytes) -> Iterator[str]:
    """What pickles in a row name, apart from PyTorch's own and the ordered dict; nothing is run."""
    strings: list[str] = []
    stream = io.BytesIO(pickled)
    try:
        while stream.tell() < len(pickled):
            for code, argument, _ in pickletools.genops(stream):
                if code.name in ("GLOBAL", "INST", "STACK_GLOBAL"):
                    words = strings[-2:] if code.name == "STACK_GLOBAL" else str(argument).split(" ", 1)
                    name = ".".join(words)
                    if not name.startswith("torch.") and name != "collections.OrderedDict":
                        yield name
                elif isinstance(argument, str):
                    strings.append(argument)
    except Exception:  # here the pickles end
        return


def _state_dict(path: Path, content: object, weights: str) -> dict[str, Tensor]:
    """Find the weights in what a pickle held."""
    found, place = content, ""
    containers = CONTAINERS if weights == "ema" else _RAW
    both = isinstance(content, Mapping) and any(isinstance(content.get(key), Mapping) for key in _RAW)
    if weights == "raw" and not both:
        raise _without_raw(path)
    for _ in range(_DEEPEST):
        if not isinstance(found, Mapping):
            break
        inner = next((key for key in containers if isinstance(found.get(key), Mapping)), None)
        if inner is None:
            break
        found, place = found[inner], f"{place}[{inner!r}]"
    where = f"{path}{': its entry ' + place if place else ''}"
    hint = "give a file of a state dict, tensors by name"
    if not isinstance(found, Mapping):
        raise CheckpointError(f"{where} holds {_kind_of(found)}, not weights by name", path=path, hint=hint)
    if not found:
        raise CheckpointError(f"{where} holds no weights", path=path, hint=hint)
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            what = f"{where} holds {_kind_of(value)} under {str(name)[:100]!r}"
            raise CheckpointError(f"{what}, not weights alone", path=path, hint=hint)
        _check_dense(path, name, value)
    return {name: value.detach() for name, value in found.items()}


def _without_raw(path: Path) -> CheckpointError:
    message = f"{path} holds one set of weights, not trained ones beside their average"
    return CheckpointError(message, path=path, hint="leave out --weights raw")


def _check_dense(path: Path, name: str, value: Tensor) -> None:
    """A tensor is ordinary numbers that are all in the file, not a promise of many."""
    plain = type(value) in (Tensor, torch.nn.Parameter) and value.layout == torch.strided
    if not plain or value.device.type != "cpu" or value.is_quantized:
        raise CheckpointError(f"{path}: {name[:100]!r} is not a dense tensor", path=path)
    needed, there = value.numel() * value.element_size(), value.untyped_storage().nbytes()
    if needed > there:
        raise CheckpointError(f"{path}: {name[:100]!r} declares {needed} bytes, {there} are there", path=path)


def _kind_of(value: object) -> str:
    return f"an object of type {type(value).__name__}"
