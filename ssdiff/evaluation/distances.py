"""Distances between sets of features, most of them torch-fidelity's; and the cache of references."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ssdiff.errors import DataError, UsageError
from ssdiff.evaluation.features import Extractor, Features
from ssdiff.files import write_atomic

METRICS = ("fid", "kid", "prc", "is", "mind")
_FORMAT = 2  # of the cache; another number computes everything anew
_DIRECTIONS, _AT_ONCE = 1000, 50  # of MIND
_MIND_SCALE = 3  # times D [Berthet et al. 2026, section 3]
_SEED = 2020
_NEEDED = {"fid": 2, "mind": 2, "prc": 4, "is": 10}


def compute_metric(
    metric: str, generated: Features, reference: Features | None, subset: int = 1000
) -> dict[str, float]:
    """Compute a metric between generated and reference features.

    Args:
        metric: ``fid`` (Frechet distance [Heusel et al. 2017]), ``kid`` (unbiased kernel distance, mean and
            std over 100 subsets [Binkowski et al. 2018]), ``prc`` (precision and recall, 3 neighbours
            [Kynkaanniemi et al. 2019]), ``is`` (Inception score, mean and std over 10 splits [Salimans et al.
            2016]), ``mind`` (sliced Wasserstein distance, 1000 directions [Berthet et al. 2026]).
        generated: of generated images.
        reference: of the reference; None for ``is``, which has none.
        subset: images in a subset of ``kid``.

    Raises:
        DataError: too few images.
        UsageError: a classifier is needed.
    """
    if metric == "is":
        return _inception_score(generated)
    assert reference is not None, "all others compare"
    if generated.pool.shape[1] != reference.pool.shape[1]:
        raise DataError(
            f"{generated.pool.shape[1]} features cannot be compared with {reference.pool.shape[1]}"
        )
    require(metric, min(len(generated.pool), len(reference.pool)), subset)
    return _METRICS[metric](generated.pool, reference.pool, subset)


def require(metric: str, count: int, subset: int = 1000) -> None:
    """Refuse too few images before anything is computed from them.

    Args:
        metric: as for :func:`compute_metric`.
        count: images of the smaller side.
        subset: images in a subset of ``kid``.

    Raises:
        DataError: fewer than the metric needs.
    """
    needed = _NEEDED.get(metric, subset)
    if count < needed:
        where = "" if metric == "is" else " on each side"
        hint = "generate more, or lower --subset-size" if metric == "kid" else "use more images"
        raise DataError(f"{metric} needs {needed} images{where}, not {count}", hint=hint)


def _frechet(generated: Tensor, reference: Tensor, subset: int) -> dict[str, float]:
    from torch_fidelity import metric_fid

    sides = [metric_fid.fid_features_to_statistics(side.double()) for side in (generated, reference)]
    values = metric_fid.fid_statistics_to_metric(*sides, verbose=False)
    return {"distance": float(values[metric_fid.KEY_METRIC_FID])}


def _kernel(generated: Tensor, reference: Tensor, subset: int) -> dict[str, float]:
    from torch_fidelity import metric_kid

    values = metric_kid.kid_features_to_metric(
        generated, reference, kid_subset_size=subset, rng_seed=_SEED, verbose=False
    )
    return {"mean": values[metric_kid.KEY_METRIC_KID_MEAN], "std": values[metric_kid.KEY_METRIC_KID_STD]}


def _precision_recall(generated: Tensor, reference: Tensor, subset: int) -> dict[str, float]:
    from torch_fidelity import metric_prc

    values = metric_prc.prc_features_to_metric(generated, reference, save_cpu_ram=True, verbose=False)
    return {
        "precision": values[metric_prc.KEY_METRIC_PRECISION],
        "recall": values[metric_prc.KEY_METRIC_RECALL],
    }


def _inception_score(generated: Features) -> dict[str, float]:
    from torch_fidelity import metric_isc

    if generated.logits is None:
        raise UsageError("is needs the logits of a classifier", hint="use the extractor inception")
    require("is", len(generated.logits))
    values = metric_isc.isc_features_to_metric(generated.logits)
    return {"mean": values[metric_isc.KEY_METRIC_ISC_MEAN], "std": values[metric_isc.KEY_METRIC_ISC_STD]}


def _monge(generated: Tensor, reference: Tensor, subset: int) -> dict[str, float]:
    """torch-fidelity's release has it not: 3 D times the mean squared 1-D Wasserstein distance."""
    generator = torch.Generator().manual_seed(_SEED)
    count, width = min(len(generated), len(reference)), generated.shape[1]
    generated, reference = (
        side[torch.randperm(len(side), generator=generator)[:count]].double()
        for side in (generated, reference)
    )
    total = 0.0
    for _ in range(_DIRECTIONS // _AT_ONCE):
        lines = torch.randn(width, _AT_ONCE, generator=generator, dtype=torch.float64)
        lines = lines / lines.norm(dim=0)
        a, b = ((side @ lines).sort(dim=0).values for side in (generated, reference))
        total += float((a - b).square().mean()) * _AT_ONCE
    return {"distance": _MIND_SCALE * width * total / _DIRECTIONS}


_METRICS: dict[str, Callable[[Tensor, Tensor, int], dict[str, float]]] = {
    "fid": _frechet,
    "kid": _kernel,
    "prc": _precision_recall,
    "mind": _monge,
}


def collect(extractor: Extractor, batches: Iterator[Tensor]) -> Features:
    """Return features of (B, 1 or 3, H, W) uint8 batches; grey is repeated.

    Raises:
        DataError: some are not finite numbers, so that no distance is.
    """
    parts = [extractor.run(batch.expand(-1, 3, -1, -1).contiguous()) for batch in batches]
    logits = [part.logits for part in parts if part.logits is not None]
    pool = torch.cat([part.pool for part in parts])
    if not bool(pool.isfinite().all()):
        raise DataError(f"{extractor.name} gives features that are not finite", hint="fix the extractor")
    return Features(pool, torch.cat(logits) if logits else None)


class Cache:
    """Features of references on the disk, by the content of the images and the extractor's: a data set that
    changed under the same name is computed anew.

    Args:
        folder: of all entries.
        content: SHA-256 of the images as they are compared.
        extractor: the network.
    """

    def __init__(self, folder: Path, content: str, extractor: Extractor) -> None:
        text = json.dumps([_FORMAT, content, extractor.name, extractor.identity])
        self._path = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"

    def find(self, count: int) -> Features | None:
        """Return the features of ``count`` images; None if they are absent or damaged."""
        try:
            with safe_open(self._path, framework="pt") as file:
                told = file.metadata() or {}
                kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            sound = len(kept["pool"]) == count and told.get("sha256") == _digest(kept)
        except (OSError, SafetensorError, KeyError):
            return None
        return Features(kept["pool"], kept.get("logits")) if sound else None

    def keep(self, features: Features) -> None:
        """Write features.

        Raises:
            ResourceError: the folder cannot be written or the disk is full.
        """
        kept = {"pool": features.pool.contiguous()}
        if features.logits is not None:
            kept["logits"] = features.logits.contiguous()
        write_atomic(self._path, save(kept, {"sha256": _digest(kept)}), overwrite=True)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()
