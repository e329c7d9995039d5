"""Lists of files: which images of a folder or zip file belong to a split."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ssdiff.errors import DataError
from ssdiff.files import read_input

_NAMED = 3  # files, in a message
_LARGEST = 2**30  # bytes of a list
_PARTS = "its lines end in the number of a part: choose one with data.part (--data-part), e.g. 0"


@dataclass(frozen=True, slots=True)
class NameList:
    """Names of images relative to a folder or in a zip file, as a text file lists them.

    Attributes:
        path: of the file.
        names: none twice.
        numbered: whether every line ends in a whole number, and no part was chosen by it.
    """

    path: Path
    names: frozenset[str]
    numbered: bool = False

    def check(self, found: Iterable[str]) -> None:
        """Refuse a list with names that are not there.

        Raises:
            DataError: says how many, and the first.
        """
        missing = sorted(self.names - frozenset(found))
        if not missing:
            return
        shown = ", ".join(missing[:_NAMED]) + (", ..." if len(missing) > _NAMED else "")
        raise DataError(
            f"{len(missing)} of {len(self.names)} images that {self.path} lists are not there: {shown}",
            path=self.path,
            hint=_PARTS if self.numbered else "names are relative to the folder, with the ending of an image",
        )


def read_list(path: Path, part: int | None = None) -> NameList:
    """Read a list of images: one relative path a line; empty lines do not count.

    Args:
        path: a text file, UTF-8.
        part: lines are a path and a whole number, as in CelebA's ``list_eval_partition.txt``, and those with
            this number are taken. None takes all lines, which are paths alone.

    Raises:
        DataError: the file cannot be read, lists nothing, a path twice or one that leads outside, or has a
            line without a number where a part is asked for.
    """
    try:
        lines = read_input(path, _LARGEST, pipes=True).decode("utf-8-sig").splitlines()
    except FileNotFoundError:
        raise DataError(f"there is no list of images {path}", path=path, hint="check --data-list") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is no list of images: it is not UTF-8 text", path=path) from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}", path=path) from error
    names: set[str] = set()
    parts: set[int] = set()
    numbered = True
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line:
            continue
        name, own = _split(line)
        numbered = numbered and own is not None
        if part is None:
            name = line
        elif own is None:
            raise DataError(
                f"{path}, line {number}: {line!r} does not end in the number of a part",
                path=path,
                hint="leave data.part (--data-part) out for a list of paths alone",
            )
        else:
            parts.add(own)
            if own != part:
                continue
        name = _checked(name, path, number)
        if name in names:
            raise DataError(f"{path}, line {number}: {name} is listed twice", path=path)
        names.add(name)
    if not names:
        empty = f"part {part} of {path}" if parts else f"{path}"
        hint = f"it has the parts {', '.join(map(str, sorted(parts)))}" if parts else None
        raise DataError(f"{empty} lists no image", path=path, hint=hint)
    return NameList(path, frozenset(names), numbered and part is None)


def _split(line: str) -> tuple[str, int | None]:
    """A line as path and number, None where it does not end in one."""
    name, _, last = line.replace("\t", " ").rpartition(" ")
    return (name.rstrip(), int(last)) if name.strip() and last.isdecimal() else (line, None)


def _checked(name: str, path: Path, number: int) -> str:
    """The name in one spelling, if it stays inside the folder."""
    spelled = PurePosixPath(name.replace("\\", "/"))
    drive = spelled.parts[:1] != () and spelled.parts[0].endswith(":")
    if spelled.is_absolute() or drive or ".." in spelled.parts or not spelled.name:
        raise DataError(
            f"{path}, line {number}: {name!r} leads outside the data set",
            path=path,
            hint="list paths relative to the folder or in the zip file",
        )
    return str(spelled)
