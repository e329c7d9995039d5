"""The list of a checkpoint's files, and the check that they are as they were written."""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMAT = 1
MANIFEST, META, SUFFIX = "manifest.json", "meta.json", ".safetensors"
FILE_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}\.(json|safetensors)")
_HASH = re.compile(r"[0-9a-f]{64}")
_LIMIT = 1 << 20  # bytes of a manifest; a real one has less than a thousand


class Damage(Exception):
    """Why a checkpoint cannot be trusted, without its path."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file as the manifest describes it."""

    size: int  # bytes
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """Step and files of a checkpoint."""

    step: int
    files: Mapping[str, Entry]

    def encode(self) -> bytes:
        """Return the contents of ``manifest.json``, sealed with a hash of itself."""
        files = {name: {"size": entry.size, "sha256": entry.sha256} for name, entry in self.files.items()}
        return _encode(_sealed({"format": FORMAT, "step": self.step, "files": files}))


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a checkpoint; its files are not looked at.

    Raises:
        Damage: absent, damaged, of a newer format, or naming a file outside the folder.
    """
    path = folder / MANIFEST
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise Damage(f"{MANIFEST} is not a regular file")
        with path.open("rb") as stream:
            raw = stream.read(_LIMIT + 1)
    except FileNotFoundError:
        raise Damage(f"it has no {MANIFEST}, so it was never completed") from None
    except OSError as error:
        raise Damage(f"{MANIFEST} cannot be read: {error.strerror}") from None
    if len(raw) > _LIMIT:
        raise Damage(f"{MANIFEST} is longer than {_LIMIT} bytes")
    return _parse(raw)


def examine(folder: Path) -> Manifest:
    """Return the manifest of a checkpoint whose files all have its sizes and hashes.

    Raises:
        Damage: as :func:`read_manifest`; or a file is missing, truncated or changed; or the folder is
            named after another step.
    """
    manifest = read_manifest(folder)
    named = re.match(r"step-([0-9]{1,20})", folder.name)
    if named and int(named[1]) != manifest.step:
        raise Damage(f"it is named {folder.name} but holds step {manifest.step}")
    try:
        for name, entry in manifest.files.items():
            _check_size(folder / name, entry)
        for name, entry in manifest.files.items():
            with (folder / name).open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
            if found != entry.sha256:
                raise Damage(f"{name} has changed: SHA-256 {entry.sha256} expected, {found} found")
    except OSError as error:
        raise Damage(f"a file cannot be read: {error}") from None
    return manifest


def _check_size(path: Path, entry: Entry) -> None:
    try:
        info = path.lstat()
    except FileNotFoundError:
        raise Damage(f"{path.name} is missing") from None
    if not stat.S_ISREG(info.st_mode):
        # A link would read what lies outside the checkpoint.
        raise Damage(f"{path.name} is not a regular file")
    if info.st_size < entry.size:
        raise Damage(f"{path.name} is truncated: {info.st_size} of {entry.size} bytes")
    if info.st_size > entry.size:
        raise Damage(f"{path.name} has {info.st_size} bytes, {entry.size} were written")


def _parse(raw: bytes) -> Manifest:
    try:
        content = json.loads(raw.decode())
    except (ValueError, RecursionError):
        raise Damage(f"{MANIFEST} is damaged: it is not JSON") from None
    if not isinstance(content, dict):
        raise Damage(f"{MANIFEST} is damaged: it is not a table")
    version = content.get("format")
    if type(version) is not int or version < 1:
        raise Damage(f"{MANIFEST} is damaged: it states no format version")
    if version > FORMAT:
        raise Damage(
            f"it has format version {str(version)[:20]}, this ssdiff reads versions up to {FORMAT}; "
            "update ssdiff"
        )
    files, step = content.get("files"), content.get("step")
    if not isinstance(files, dict) or type(step) is not int or step < 0:
        raise Damage(f"{MANIFEST} is damaged: it lists no files or no step")
    entries = {name: _entry(name, value) for name, value in files.items()}
    if META not in entries:
        raise Damage(f"{MANIFEST} is damaged: it does not list {META}")
    expected = content.get("sha256")
    sealed = _sealed(content)
    if expected != sealed["sha256"] or raw != _encode(sealed):
        found = sealed["sha256"] if expected != sealed["sha256"] else "the same in another spelling"
        raise Damage(f"{MANIFEST} has changed: SHA-256 {str(expected)[:64]} expected, {found} found")
    return Manifest(step, entries)


def _entry(name: str, value: object) -> Entry:
    if not FILE_NAME.fullmatch(name) or name == MANIFEST:
        outside = "/" in name or "\\" in name or ".." in name
        what = "outside the checkpoint" if outside else "which no checkpoint has"
        raise Damage(f"{MANIFEST} names a file {what}: {name[:100]!r}")
    size, sha256 = (value.get("size"), value.get("sha256")) if isinstance(value, dict) else (None, None)
    if type(size) is not int or size < 0 or not isinstance(sha256, str) or not _HASH.fullmatch(sha256):
        raise Damage(f"{MANIFEST} is damaged: no size or hash of {name}")
    return Entry(size, sha256)


def _sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The same content with the hash of everything but that hash."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return {**rest, "sha256": hashlib.sha256(_encode(rest)).hexdigest()}


def _encode(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, indent=1, sort_keys=True).encode() + b"\n"
