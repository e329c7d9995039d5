"""Networks that turn images into features: Inception through torch-fidelity, or one of the user's own.

torch-fidelity unpickles weight files as they are. Here the file's SHA-256 is checked first, and what is then
read may hold nothing but tensors.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
import tempfile
import urllib.request
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssdiff.arguments import require_type
from ssdiff.errors import CheckpointError, ResourceError, UsageError, one_line
from ssdiff.files import read_input, write_atomic
from ssdiff.weights.untrusted import read_weights

INCEPTION = "inception"
_FILE = "weights-inception-2015-12-05-6726825d.pth"
_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{_FILE}"
_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
_LARGEST = 2**28  # bytes that are read of a file that should be this one
_PATIENCE = 30.0  # seconds that a server may take to connect, and then between two parts of its answer
_POOL, _LOGITS = "2048", "logits_unbiased"


@dataclass(frozen=True, slots=True)
class Features:
    """What a network sees in N images.

    Attributes:
        pool: (N, D) float32.
        logits: (N, K) float32 of a classifier, or None.
    """

    pool: Tensor
    logits: Tensor | None


@dataclass(frozen=True, slots=True)
class Extractor:
    """A network for features.

    Attributes:
        name: ``inception``, or the class.
        identity: SHA-256 of its weights, and of its source where it is the user's.
        run: (B, 3, H, W) uint8 to features on the CPU.
    """

    name: str
    identity: str
    run: Callable[[Tensor], Features]

    def label(self, letter: str) -> str:
        """Return the name of a distance: FID and KID are those of Inception alone."""
        return f"{letter}ID" if self.name == INCEPTION else f"{letter}D-{self.name}"


def open_extractor(name: str, weights: Path | None, device: torch.device) -> Extractor:
    """Open the network of a name.

    Args:
        name: ``inception``, or ``module:Class`` of an ``nn.Module`` that is made without arguments and takes
            (B, 3, H, W) uint8 to (B, D) features; or of a torch-fidelity extractor.
        weights: file of Inception's weights; where omitted that of torch's hub cache, downloaded if need be.
        device: where it runs.

    Raises:
        UsageError: no such class, or one that is no extractor.
        ResourceError: Inception's weights cannot be had, or their server takes longer than 30 s to answer;
            says where they belong and their SHA-256.
        CheckpointError: a weights file of another content.
    """
    if name == INCEPTION:
        return _inception(weights, device)
    if weights is not None:
        raise UsageError("--weights-file is for inception", hint="leave it out")
    with redirect_stdout(sys.stderr):  # where results go, the user's code has nothing to say
        net = _own(name).to(device).eval()
    digest = hashlib.sha256(Path(inspect.getfile(type(net))).read_bytes())
    for key, value in sorted(net.state_dict().items()):
        # As bytes, because numpy does not know every type of torch's.
        whole = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(key.encode() + whole.numpy().tobytes())

    @torch.no_grad()
    def run(images: Tensor) -> Features:
        found = net(images.to(device))
        pool = found[0] if isinstance(found, tuple | list) else found
        if not isinstance(pool, Tensor) or pool.ndim != 2 or len(pool) != len(images):
            raise UsageError(f"{name} must give (B, D) features for (B, 3, H, W) images")
        return Features(pool.float().cpu(), None)

    return Extractor(type(net).__name__, digest.hexdigest(), run)


def _own(name: str) -> nn.Module:
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase

    require_type("extractor", name, str, f"choose {INCEPTION!r} or give 'module:Class'")
    module, colon, class_name = name.partition(":")
    if not colon or not module or not class_name:
        raise UsageError(f"unknown extractor {name!r}", hint=f"choose {INCEPTION} or give module:Class")
    sys.path.insert(0, str(Path.cwd()))
    try:
        kind: Any = getattr(importlib.import_module(module), class_name)
    except Exception as error:  # the user's code can raise anything
        hint = "it must be importable from this folder or installed"
        raise UsageError(f"cannot import extractor {name!r}: {one_line(error)}", hint=hint) from error
    finally:
        sys.path.pop(0)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise UsageError(f"extractor {name!r} is no torch.nn.Module class")
    try:
        if issubclass(kind, FeatureExtractorBase):
            theirs: Any = kind
            made: nn.Module = theirs(class_name, [theirs.get_default_feature_layer_for_metric("fid")])
            return made
        return kind()
    except Exception as error:  # the user's code can raise anything
        hint = "it must be made without arguments"
        raise UsageError(f"cannot make extractor {name!r}: {one_line(error)}", hint=hint) from error


def _inception(weights: Path | None, device: torch.device) -> Extractor:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path = weights or _cached_weights()
    try:
        digest = hashlib.sha256(read_input(path, _LARGEST)).hexdigest()
    except OSError as error:
        message = f"cannot read the weights of Inception in {path}: {error.strerror}"
        raise ResourceError(message, path=path, hint=f"SHA-256 of the right file: {_SHA256}") from None
    if digest != _SHA256:
        raise CheckpointError(
            f"{path} has SHA-256 {digest[:16]}..., the weights of Inception have {_SHA256}",
            path=path,
            hint="download it again",
        )
    with tempfile.TemporaryDirectory() as folder:
        # torch-fidelity loads anything it is given, so it is given tensors and nothing else.
        copy = Path(folder) / _FILE
        torch.save(read_weights(path), copy)
        net = FeatureExtractorInceptionV3(
            INCEPTION, [_POOL, _LOGITS], feature_extractor_weights_path=str(copy)
        )
    net = net.to(device)

    @torch.no_grad()
    def run(images: Tensor) -> Features:
        pool, logits = net(images.to(device))
        return Features(pool.float().cpu(), logits.float().cpu())

    return Extractor(INCEPTION, digest, run)


def _cached_weights() -> Path:
    path = Path(torch.hub.get_dir()) / "checkpoints" / _FILE
    if not path.exists():
        try:
            content = _download()
        except (OSError, HTTPException, ValueError) as error:
            raise ResourceError(
                f"the weights of Inception are not at {path} and cannot be downloaded from {_URL} "
                f"({one_line(error)})",
                path=path,
                hint=f"place {_FILE} there (SHA-256 {_SHA256}), or give --weights-file or --extractor",
            ) from None
        write_atomic(path, content, overwrite=True)
    return path


def _download() -> bytes:
    """The weights of Inception; not by torch.hub, which waits for ever for a server that says nothing."""
    with urllib.request.urlopen(_URL, timeout=_PATIENCE) as response:
        content: bytes = response.read()
    digest = hashlib.sha256(content).hexdigest()
    if digest != _SHA256:
        raise ValueError(f"{len(content):,} bytes of SHA-256 {digest[:16]}... came")
    return content
