"""What a training step sees: which images, which timesteps, which noise.

All of it is a pure function of (seed, micro-batch, position in the global batch), so a resumed run sees what
the uninterrupted one would have seen, and two processes see the two halves of one doubled batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ssdiff import rng
from ssdiff.devices import to_device
from ssdiff.distributed import World
from ssdiff.images import from_uint8
from ssdiff.operators.base import Size
from ssdiff.training.patches import Patches
from ssdiff.training.prefetch import Prefetch
from ssdiff.training.timesteps import pair_shares, pairs_of_sizes

_Batch = tuple[Tensor, Tensor | None]

_RESIDENT_SHARE = 0.4  # of the device's free memory that a data set may take
_PART = 1024  # images copied to the device at once
COUNTERS = 2**32
"""Micro-batches that the random numbers tell apart."""


class TimestepSampler:
    """The batch rule of [SSD, section 4]: one resolution transition at a time, other timesteps mixed.

    The first draw of a batch decides the pair (size at t, size at t - 1). The whole batch is drawn from the
    timesteps of that pair: many where the size stays, a single one at a transition. Where timesteps are not
    alike, the first draw takes a pair by what its timesteps have together, the others these by what each has.

    Args:
        sizes: image size of t = 0..T.
        seed: of the run.
        transition_share: least share of the batches for each resolution transition; 0 draws the first t
            uniformly, as the paper does.
        accumulate: micro-batches a step. Their pairs are spread evenly over all (systematic sampling), so
            that the layers of every size learn in nearly every step; each alone is distributed as ever.
        overlap: timesteps beyond the transition of the full size that it learns too.
        overlap_share: of its batches, which are of these.
        masses: (T,) float64 probabilities of t = 1..T; None is uniform.
        overlap_masses: of ``overlap``, in proportion; with ``masses`` only.
        transitions: whether resolution transitions are drawn at all.

    Attributes:
        probability: (T,) float64 with which an image is of t = 1..T.
        overlap_probability: with which it is of each timestep of ``overlap``.

    Raises:
        ProcessError: as :func:`ssdiff.training.timesteps.pair_shares`.
    """

    def __init__(
        self,
        sizes: Sequence[Size],
        seed: int,
        transition_share: float = 0.0,
        grad_accum_steps: int = 1,
        overlap: Sequence[int] = (),
        overlap_share: float = 0.0,
        masses: Tensor | None = None,
        overlap_masses: Tensor | None = None,
        transitions: bool = True,
    ) -> None:
        shares = pair_shares(sizes, transition_share, masses, transitions)
        groups = {pair: members for pair, members in pairs_of_sizes(sizes).items() if pair in shares}
        self._groups = [torch.tensor(members) for members in groups.values()]
        self._largest = groups[max(groups, key=lambda pair: [math.prod(size) for size in pair])]
        self._grad_accum_steps = grad_accum_steps
        self._bounds = torch.tensor(list(shares.values()), dtype=torch.float64).cumsum(0)
        self._overlap = torch.tensor(overlap)
        self._overlap_share = overlap_share if overlap else 0.0
        self._full = list(groups).index((sizes[0], sizes[0])) if (sizes[0], sizes[0]) in groups else None
        self._below = rng.derive(seed, "train/overlap")
        self._first, self._rest = rng.derive(seed, "train/resolution"), rng.derive(seed, "train/severity")
        self._within = rng.derive(seed, "train/log-snr")
        self._uniform = masses is None
        if masses is None:
            masses, overlap_masses = torch.ones(len(sizes) - 1, dtype=torch.float64), None
        if overlap_masses is None:
            overlap_masses = torch.ones(len(overlap), dtype=torch.float64)
        self._chances = [_conditional(masses[members - 1]) for members in self._groups]
        self._overlap_chances = _conditional(overlap_masses)
        self.probability = torch.zeros(len(sizes) - 1, dtype=torch.float64)
        self.overlap_probability = torch.zeros(len(overlap), dtype=torch.float64)
        for group, (members, share) in enumerate(zip(self._groups, shares.values(), strict=True)):
            beyond = share * self._overlap_share if group == self._full else 0.0
            self.probability[members - 1] = (share - beyond) * self._chances[group]
            if beyond:
                self.overlap_probability = beyond * self._overlap_chances

    def draw(self, counter: int, positions: Tensor) -> Tensor:
        """Draw (B,) timesteps on the CPU, all with the same size now and the same size next."""
        number, overlaps = self._group(counter), self.overlaps(counter)
        group = self._overlap if overlaps else self._groups[number]
        if self._uniform:
            return group[rng.integers(self._rest, positions, counter, 0, len(group))]
        chances = self._overlap_chances if overlaps else self._chances[number]
        place = rng.uniform(self._within, positions, counter, (), torch.float64)
        return group[torch.searchsorted(chances.cumsum(0), place, right=True).clamp(max=len(group) - 1)]

    def overlaps(self, counter: int) -> bool:
        """Return whether a batch is one of the full size beyond its transition."""
        if not self._overlap_share or self._group(counter) != self._full:
            return False
        drawn = rng.uniform(self._below, torch.zeros(1, dtype=torch.int64), counter, (), torch.float64)
        return float(drawn) < self._overlap_share

    def _group(self, counter: int) -> int:
        """Number of a batch's pair of sizes."""
        step, micro = divmod(counter, self._grad_accum_steps)
        first = rng.uniform(self._first, torch.zeros(1, dtype=torch.int64), step, (), torch.float64)
        first = (first + micro / self._grad_accum_steps) % 1.0
        return min(int(torch.searchsorted(self._bounds, first)), len(self._groups) - 1)

    def places(self) -> tuple[Tensor, Tensor]:
        """Return the number of the pair of sizes, and the probability, of each of (K,) places: t = 1..T, then
        those of ``overlap``, which are a pair of their own."""
        pairs = torch.full((len(self.probability) + len(self._overlap),), len(self._groups))
        for number, members in enumerate(self._groups):
            pairs[members - 1] = number
        return pairs, torch.cat([self.probability, self.overlap_probability])

    def place(self, timesteps: Tensor, overlaps: bool) -> Tensor:
        """Return the (B,) places of timesteps as they were drawn."""
        if not overlaps:
            return timesteps - 1
        return len(self.probability) + torch.searchsorted(self._overlap, timesteps)

    def largest(self, count: int) -> Tensor:
        """Return (count,) timesteps of the largest size, spread evenly over all of them."""
        return torch.tensor(self._largest)[torch.arange(count) * len(self._largest) // count]


class ImageOrder:
    """Every image once an epoch, in an order of its own each epoch.

    Args:
        count: images in the set.
        seed: of the run.
    """

    def __init__(self, count: int, seed: int) -> None:
        self._count, self._seed = count, seed
        self._epochs: dict[int, Tensor] = {}

    def __call__(self, places: Tensor) -> Tensor:
        """Return (B,) image numbers at (B,) places of the endless sequence of epochs."""
        epochs = places // self._count
        result = torch.empty_like(places)
        for epoch in epochs.unique().tolist():
            here = epochs == epoch
            result[here] = self._permutation(epoch)[places[here] - epoch * self._count]
        return result

    def _permutation(self, epoch: int) -> Tensor:
        if epoch not in self._epochs:
            self._epochs = {k: order for k, order in self._epochs.items() if k >= epoch - 1}
            key = rng.derive(self._seed, f"train/order/{epoch}") >> 1
            self._epochs[epoch] = torch.randperm(self._count, generator=torch.Generator().manual_seed(key))
        return self._epochs[epoch]


class Batches:
    """Training images as float batches on the device.

    A set that fits stays on the device as bytes; otherwise bytes travel and are converted there, those of the
    next micro-batches by a thread while the step runs.

    Args:
        images: (N, C, S, S) uint8, an array or memory map; or patches of whole pictures.
        labels: (N,) classes, or None.
        device: where batches are wanted.
        world: this process's place among all of them.
        batch: images of one process in a micro-batch.
        seed: of the run.
        flip: mirror half of the images.
        crop: pixels a side of a square that is cut at random from each image; None takes all of it.
        padding: black pixels around an image before it is cut.
        classes: number of classes of the model; 0 leaves labels out.
        label_dropout: share of labels replaced by the unconditional class.
        ahead: micro-batches that a thread makes ahead of their turn, of a set that does not stay on the
            device; 0 makes each when it is asked for. The batches are the same.

    Attributes:
        world: as given.
        positions: (batch,) positions of this process's images in the global micro-batch.
        global_batch: images of all processes in a micro-batch.
    """

    def __init__(
        self,
        images: np.ndarray | Patches,
        labels: np.ndarray | None,
        device: torch.device,
        world: World,
        batch: int,
        seed: int,
        *,
        flip: bool,
        crop: int | None = None,
        padding: int = 0,
        classes: int = 0,
        label_dropout: float = 0.0,
        ahead: int = 0,
    ) -> None:
        self._order = ImageOrder(len(images), seed)
        self._device, self.world = device, world
        self.positions = world.rank * batch + torch.arange(batch)
        self.global_batch = world.size * batch
        self._flip, self._classes, self._dropout = flip, classes, label_dropout
        self._crop, self._padding = crop, padding
        self._crop_keys = [rng.derive(seed, f"train/crop/{axis}") for axis in ("top", "left")]
        self._flip_key, self._label_key = rng.derive(seed, "train/flip"), rng.derive(seed, "train/label")
        self._images = images
        self._resident: Tensor | None = None
        if isinstance(images, np.ndarray) and _fits(images, device):
            self._resident = _on_device(images, device)
        self._labels = None if labels is None or not classes else torch.from_numpy(labels.astype(np.int64))
        self._prefetch = Prefetch(self._send, ahead) if ahead and self._resident is None else None
        self._stream = torch.cuda.Stream(device) if self._prefetch and device.type == "cuda" else None

    def __call__(self, counter: int) -> _Batch:
        """Return images (B, C, S, S) in [-1, 1], cropped and mirrored, and (B,) labels of one micro-batch.

        Args:
            counter: of micro-batches, from the start of the run.
        """
        if self._prefetch is None:
            return self._make(counter)
        batch, sent = self._prefetch(counter)
        if sent is not None:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(sent)
            for tensor in batch:
                if tensor is not None:
                    tensor.record_stream(stream)  # its memory is the other stream's
        return batch

    def close(self) -> None:
        """End the thread, if there is one; no batch can be asked for afterwards."""
        if self._prefetch is not None:
            self._prefetch.close()

    def _send(self, counter: int) -> tuple[_Batch, torch.cuda.Event | None]:
        """A batch, and what says that it has arrived on a GPU: its stream runs beside that of the step."""
        if self._stream is None:
            return self._make(counter), None
        with torch.cuda.stream(self._stream):
            batch = self._make(counter)
            return batch, self._stream.record_event()

    def _make(self, counter: int) -> _Batch:
        positions = self.positions
        numbers = self._order(positions + counter * self.global_batch)
        images = self._float(numbers, counter % COUNTERS)
        if self._flip:
            mirrored = rng.uniform(self._flip_key, positions, counter % COUNTERS, (1, 1, 1)) < 0.5
            images = torch.where(to_device(mirrored, self._device), images.flip(-1), images)
        return images, self._classes_of(numbers, positions, counter)

    def _float(self, numbers: Tensor, counter: int) -> Tensor:
        """Images in [-1, 1], cut at random where they are larger."""
        if isinstance(self._images, Patches):
            return to_device(self._images(numbers, self.positions, counter), self._device)
        images = self._bytes(self._images, numbers)
        if self._crop is not None:
            places = images.shape[-1] + 2 * self._padding - self._crop + 1
            top, left = (
                to_device(rng.integers(key, self.positions, counter, 0, places), self._device)
                for key in self._crop_keys
            )
            images = cut(images, top, left, self._crop, self._padding)
        return from_uint8(images)

    def _classes_of(self, numbers: Tensor, positions: Tensor, counter: int) -> Tensor | None:
        if not self._classes:
            return None
        blank = torch.full_like(numbers, self._classes)
        labels = blank if self._labels is None else self._labels[numbers]
        hidden = rng.uniform(self._label_key, positions, counter % COUNTERS, ()) <= self._dropout
        return to_device(torch.where(hidden, blank, labels), self._device)

    def _bytes(self, images: np.ndarray, numbers: Tensor) -> Tensor:
        if self._resident is not None:
            return self._resident[to_device(numbers, self._device)]
        return to_device(torch.from_numpy(images[numbers.numpy()]), self._device)


def cut(images: Tensor, top: Tensor, left: Tensor, size: int, padding: int = 0) -> Tensor:
    """Cut a square out of each image.

    Args:
        images: (B, C, H, W).
        top: (B,) first row of each square, counted with the padding; the device of the images.
        left: (B,) first column.
        size: S, pixels a side.
        padding: black pixels (zeros) around each image.

    Returns:
        (B, C, S, S).
    """
    if padding:
        images = torch.nn.functional.pad(images, (padding,) * 4)
    along = torch.arange(size, device=images.device)
    rows, columns = top[:, None, None] + along[:, None], left[:, None, None] + along  # (B, S, 1), (B, 1, S)
    which = torch.arange(len(images), device=images.device)[:, None, None]
    return images[which, :, rows, columns].permute(0, 3, 1, 2)


def _conditional(masses: Tensor) -> Tensor:
    """Probabilities within a group; a transition that lies where nothing is drawn has its share all the
    same."""
    total = masses.sum()
    return masses / total if total > 0 else torch.full_like(masses, 1 / max(len(masses), 1))


def _fits(images: np.ndarray, device: torch.device) -> bool:
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return bool(images.nbytes < _RESIDENT_SHARE * free)


def _on_device(images: np.ndarray, device: torch.device) -> Tensor:
    """A copy in parts: a memory map may be read-only, and larger than the memory of the host."""
    result = torch.empty(images.shape, dtype=torch.uint8, device=device)
    for start in range(0, len(images), _PART):
        result[start : start + _PART] = torch.tensor(images[start : start + _PART])
    return result
