"""Numbers of the published implementations: what their own code gives for inputs that a seed makes.

The repository carries every array thinned to a few hundred values, ``flat[::step]`` with an odd step, so that
all rows and columns are met. With ``SSDIFF_GOLDEN`` naming a folder of the whole arrays, these are compared.
``SSDIFF_GOLDEN_TABLE`` names a file to which a comparison adds the line ``group array largest-difference``.

``python tests/golden.py FOLDER`` makes the thinned archive from the whole arrays.
"""

import io
import json
import os
import sys
import zipfile
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import torch

ARCHIVE = Path(__file__).parent / "assets" / "published.zip"
_VALUES = 320  # of an array, at most, in the archive
_STAMP = (2026, 1, 1, 0, 0, 0)  # so that the same arrays make the same archive
_ELSEWHERE = ("degradations", "flexi_32px_3L_w32", "flexi_64px_4L_w32", "process_32px_3L")  # whole in assets/


class Golden:
    """One group of arrays: ``meta`` says of each how it was made, ``check`` compares one."""

    def __init__(self, group, meta, arrays, whole):
        self.group, self.meta, self.arrays, self.whole = group, meta, arrays, whole

    def check(self, name, got, *, atol, rtol=0.0):
        """Refuse ``got`` (tensor or array of the whole shape) if it differs from the array ``name``."""
        got = np.asarray(got.detach().cpu().numpy() if isinstance(got, torch.Tensor) else got)
        wanted, shape, step = self.arrays[name]
        assert got.shape == shape, f"{self.group} {name}: {got.shape}, not {shape}"
        flat = np.ravel(got)[::step].astype(np.float64)
        difference = np.abs(flat - wanted.astype(np.float64))
        if table := os.environ.get("SSDIFF_GOLDEN_TABLE"):
            with open(table, "a", encoding="utf-8") as file:
                file.write(f"{self.group} {name} {difference.max(initial=0):.3g}\n")
        allowed = atol + rtol * np.abs(wanted)
        worst = int((difference - allowed).argmax())
        assert (difference <= allowed).all(), (
            f"{self.group} {name}: value {worst * step} is {flat[worst]:.9g}, published {wanted[worst]:.9g}"
        )


@cache
def golden(group):
    """Return the :class:`Golden` of a group: whole from ``SSDIFF_GOLDEN``, thinned otherwise."""
    if folder := os.environ.get("SSDIFF_GOLDEN"):
        meta = json.loads((Path(folder) / f"{group}.json").read_text(encoding="utf-8"))
        file = Path(folder) / f"{group}.npz"
        whole = dict(np.load(file)) if file.exists() else {}
        arrays = {name: (array.ravel(), array.shape, 1) for name, array in whole.items()}
        return Golden(group, meta, arrays, True)
    with zipfile.ZipFile(ARCHIVE) as archive:
        meta = json.loads(archive.read(f"{group}.json"))
        thinned = {}
        if f"{group}.npz" in archive.namelist():
            thinned = dict(np.load(io.BytesIO(archive.read(f"{group}.npz"))))
        layout = json.loads(archive.read("layout.json")).get(group, {})
    arrays = {name: (thinned[name], tuple(shape), step) for name, (shape, step) in layout.items()}
    return Golden(group, meta, arrays, False)


def normal(seed, shape):
    """Return float32 standard normal numbers of numpy's generator of a seed, the inputs of every array."""
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32))


def named_weights(keys):
    """Return tensors drawn by their names, by the rule of the archive, for ``keys``: name to shape.

    More than one dimension: a / sqrt(fan in), but names in '.b' 0.1 a; names in 'weight' and '.g': 1 + 0.1 a.
    """
    result = {}
    for name, shape in keys.items():
        a = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
        if name.endswith(".g"):
            w = 1 + 0.1 * a
        elif name.endswith(".b"):
            w = 0.1 * a
        elif len(shape) > 1:
            w = a / np.sqrt(np.prod(shape[1:]))
        else:
            w = 0.1 * a + name.endswith("weight")
        result[name] = torch.from_numpy(w.astype(np.float32))
    return result


def _thin(folder):
    layout = {}
    with zipfile.ZipFile(ARCHIVE, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:

        def add(name, data):
            archive.writestr(zipfile.ZipInfo(name, _STAMP), data, zipfile.ZIP_DEFLATED, 9)

        for file in sorted(folder.glob("*.json")):
            if file.stem in _ELSEWHERE:
                continue
            meta = json.loads(file.read_text(encoding="utf-8"))
            add(file.name, json.dumps(meta, separators=(",", ":")))
            if (whole := file.with_suffix(".npz")).exists():
                with np.load(whole) as arrays:
                    kept = {name: arrays[name] for name in arrays.files}
                steps = {name: -(-array.size // _VALUES) | 1 for name, array in kept.items()}
                layout[file.stem] = {name: (array.shape, steps[name]) for name, array in kept.items()}
                buffer = io.BytesIO()
                np.savez(buffer, **{name: array.ravel()[:: steps[name]] for name, array in kept.items()})
                add(whole.name, buffer.getvalue())
        add("layout.json", json.dumps(layout, separators=(",", ":")))


if __name__ == "__main__":
    _thin(Path(sys.argv[1]))
