"""Files that are on the disk when the call returns."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ssdiff.checkpoints.manifest import Entry
from ssdiff.files import sync

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write(path: Path, chunks: Iterable[bytes | memoryview]) -> Entry:
    """Write a new file through to the disk.

    Args:
        path: must not exist.
        chunks: its bytes, in pieces.

    Raises:
        OSError: e.g. the disk is full; part of the file may be there.
    """
    digest, size = hashlib.sha256(), 0
    with path.open("xb") as stream:
        for chunk in chunks:
            stream.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        sync(stream)
    return Entry(size, digest.hexdigest())


def safetensors_chunks(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """Yield a safetensors file in pieces, so that neither the file nor a copy of all tensors is ever in
    memory.

    Layout: length of the header, JSON header, then the tensors without gaps, wide types first so that each is
    aligned [safetensors README, "Format"].
    """
    header: dict[str, object] = {}
    start = 0
    ordered = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    for name in ordered:
        value = tensors[name]
        end = start + value.numel() * value.element_size()
        shape, dtype = list(value.shape), _DTYPES[value.dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in ordered:
        flat = tensors[name].detach().cpu().contiguous().reshape(-1)
        yield flat.view(torch.uint8).numpy().data
