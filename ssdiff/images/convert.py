"""Pixels as a tensor, Pillow images, an array of bytes or a file: each is made into the others here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Literal, SupportsIndex, TypeAlias, overload

import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ssdiff.arguments import as_path
from ssdiff.errors import DataError, UsageError
from ssdiff.images.layout import film_strip, from_uint8, grid, to_uint8
from ssdiff.images.read import from_pillow, pixels, read_image

Output: TypeAlias = Literal["pt", "pil", "np"]
"""Tensor in [-1, 1], Pillow images, or bytes of an array."""

ImageLike: TypeAlias = "Tensor | Image.Image | str | os.PathLike[str]"
"""One image: (C, H, W) in [-1, 1], a Pillow image, or a file."""

ImagesLike: TypeAlias = "ImageLike | Sequence[ImageLike]"
"""One image or several; (B, C, H, W) is several."""

_OVERSHOOT = 1e-3  # beyond [-1, 1], that clean pixels may have from rounding
_DEGRADED = 16.0  # the farthest that a degraded image with noise can be from grey; bytes are farther


class Pictures(list[Image.Image]):
    """Pillow images that a notebook shows side by side."""

    def grid(self, columns: int | None = None) -> Image.Image:
        """Return all of them in one picture: a grid, or a row of one height if their sizes differ.

        Args:
            columns: images in a row; about as many as there are rows where omitted.

        Raises:
            UsageError: there is none.
        """
        colour = any(image.mode != "L" for image in self)
        parts = [torch.from_numpy(pixels(image.convert("RGB") if colour else image)) for image in self]
        one_size = len({part.shape for part in parts}) == 1
        return to_pillow(grid(torch.stack(parts), columns) if one_size else film_strip(parts))

    @overload
    def __getitem__(self, index: SupportsIndex, /) -> Image.Image: ...
    @overload
    def __getitem__(self, index: slice, /) -> Pictures: ...
    def __getitem__(self, index: SupportsIndex | slice, /) -> Image.Image | Pictures:
        """Return one image, or some of them, which show themselves too."""
        if isinstance(index, slice):
            return Pictures(list(self)[index])
        return super().__getitem__(index)

    def _repr_png_(self) -> bytes | None:
        return png_bytes(self.grid()) if self else None


def png_bytes(image: Image.Image) -> bytes:
    """Return the bytes of a PNG file."""
    stream = BytesIO()
    image.save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def to_pillow(x: Tensor) -> Image.Image:
    """Return (C, H, W) pixels, C 1 or 3, in [-1, 1] or uint8, as an image of mode L or RGB.

    Raises:
        UsageError: x has another shape.
    """
    if x.ndim != 3 or x.shape[0] not in (1, 3):
        raise UsageError(f"an image to save must be (1 or 3, height, width), not {tuple(x.shape)}")
    array = to_uint8(x.detach()).cpu().permute(1, 2, 0).numpy()
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def to_array(x: Tensor) -> NDArray[Any]:
    """Return (N, C, H, W) pixels, in [-1, 1] or uint8, as an (N, H, W, C) array of uint8."""
    array: NDArray[Any] = to_uint8(x.detach()).cpu().permute(0, 2, 3, 1).contiguous().numpy()
    return array


def check_output_form(output: str) -> None:
    """Refuse a form of images that does not exist.

    Raises:
        UsageError: then.
    """
    if output not in ("pt", "pil", "np"):
        raise UsageError(f"unknown output {output!r}", hint="choose 'pt' (tensor), 'pil' or 'np' (array)")


def to_output(x: Tensor, output: Output = "pt") -> Tensor | Pictures | NDArray[Any]:
    """Return (N, C, H, W) pixels in [-1, 1] in the form that is asked for.

    Args:
        x: the pixels.
        output: ``"pt"`` the tensor itself, ``"pil"`` :class:`Pictures`, ``"np"`` (N, H, W, C) uint8.

    Raises:
        UsageError: another output.
    """
    check_output_form(output)
    if output == "pil":
        return Pictures(to_pillow(image) for image in x)
    return to_array(x) if output == "np" else x


@dataclass(frozen=True, slots=True)
class Given:
    """Images as a user gave them, made into tensors.

    Attributes:
        batches: (B, C, H, W) float32 or float64 in [-1, 1]; of a list one for each image.
        form: what they were; several Pillow images and files become Pillow images again.
    """

    batches: list[Tensor]
    form: Literal["batch", "image", "images", "picture", "pictures"]

    def like(self, results: Sequence[Tensor]) -> Any:
        """Return results, (B, C, h, w) for each batch, in the form of what was given."""
        match self.form:
            case "batch":
                return results[0]
            case "image":
                return results[0][0]
            case "images":
                return [result[0] for result in results]
            case "picture":
                return to_pillow(results[0][0])
            case "pictures":
                return Pictures(to_pillow(result[0]) for result in results)


def given(
    images: ImagesLike,
    *,
    channels: int | None = None,
    size: tuple[int, int] | None = None,
    clean: bool = True,
    name: str = "images",
) -> Given:
    """Read images in any form that a function of the public API takes.

    Args:
        images: (B, C, H, W) or (C, H, W) floating point in [-1, 1], Pillow images, files, or a list.
        channels: to read Pillow images and files as; of tensors it is required.
        size: (H, W) to which Pillow images and files are cut and resized; tensors must have it.
        clean: whether pixels of tensors must be within [-1, 1]; otherwise only bytes are refused.
        name: of the argument, in messages.

    Raises:
        UsageError: something else, a wrong shape, type or range, or none at all.
        DataError: a file that cannot be read.
    """
    if isinstance(images, Tensor):
        _check(images, name, channels, size, clean)
        return Given([images if images.ndim == 4 else images[None]], "batch" if images.ndim == 4 else "image")
    if isinstance(images, Image.Image | str | os.PathLike):
        return Given([_read(images, channels, size)[None]], "picture")
    if not isinstance(images, Sequence):
        raise _no_images(images, name)
    if not images:
        raise UsageError(f"{name} is an empty list", hint="give at least one image")
    tensors = []
    for i, image in enumerate(images):
        if isinstance(image, Tensor):
            _check(image, f"{name}[{i}]", channels, size, clean, dimensions=(3,))
            tensors.append(image[None])
        elif isinstance(image, Image.Image | str | os.PathLike):
            tensors.append(_read(image, channels, size)[None])
        else:
            raise _no_images(image, f"{name}[{i}]")
    all_tensors = all(isinstance(image, Tensor) for image in images)
    return Given(tensors, "images" if all_tensors else "pictures")


def one_batch(images: Given, name: str = "images") -> Tensor:
    """Return all images of one size as (N, C, H, W).

    Raises:
        UsageError: their sizes differ.
    """
    shapes = sorted({tuple(batch.shape[1:]) for batch in images.batches})
    if len(shapes) > 1:
        shown = " and ".join(str(shape) for shape in shapes[:2])
        raise UsageError(f"{name} have different shapes: {shown}", hint="crop and resize them to one")
    return torch.cat(images.batches)


def _read(
    image: Image.Image | str | os.PathLike[str], channels: int | None, size: tuple[int, int] | None
) -> Tensor:
    if isinstance(image, Image.Image):
        return from_uint8(torch.from_numpy(pixels(from_pillow(image, channels=channels, size=size))))
    path = as_path("image", image)
    if path.is_dir():
        raise DataError(f"{path} is a folder", path=path, hint="name a file, or a list of files")
    return read_image(path, channels=channels, size=size)


def _no_images(found: object, name: str) -> UsageError:
    hint = "a tensor in [-1, 1], a Pillow image, the path of a file, or a list of these"
    return UsageError(f"{name} is of type {type(found).__name__}", hint=f"give {hint}")


def _check(
    x: Tensor,
    name: str,
    channels: int | None,
    size: tuple[int, int] | None,
    clean: bool,
    dimensions: tuple[int, ...] = (3, 4),
) -> None:
    """Refuse a tensor that is no images in [-1, 1]."""
    shape = tuple(x.shape)
    wanted = f"({channels or '1 or 3'}, {', '.join(map(str, size or ('H', 'W')))})"
    known = (1, 3) if channels is None else (channels,)
    if x.ndim not in dimensions or x.shape[-3] not in known or (size and shape[-2:] != tuple(size)):
        turned = x.ndim in dimensions and x.shape[-1] in known and x.shape[-3] not in known
        leading = " or (B, ...) of them" if 4 in dimensions else ""
        hint = "move the channels first: x.movedim(-1, -3)" if turned else "crop, resize or reshape it"
        raise UsageError(f"{name} has the shape {shape}, needed is {wanted}{leading}", hint=hint)
    if x.numel() == 0:
        raise UsageError(f"{name} is empty, its shape is {shape}", hint="give at least one image")
    if not x.is_floating_point():
        hint = "bytes become pixels by ssdiff.images.from_uint8(x)"
        raise UsageError(f"{name} has values of type {x.dtype}, needed are floats in [-1, 1]", hint=hint)
    check_range(x, name, clean)


def check_range(x: Tensor, name: str, clean: bool = True) -> None:
    """Refuse pixels beyond [-1, 1], or that are not finite.

    Args:
        x: floating point, of any shape.
        name: of the argument, for the message.
        clean: whether all must be within [-1, 1]; with noise they may be beyond it, but not as far as bytes.

    Raises:
        UsageError: then.
    """
    if x.is_meta:
        raise UsageError(f"{name} is on the device meta and has no values", hint="load its values")
    if x.numel() == 0:
        return
    low, high = (float(value) for value in torch.aminmax(x.detach()))
    most = 1 + _OVERSHOOT if clean else _DEGRADED
    if not (-most <= low and high <= most):
        hint = "x / 127.5 - 1 of 0..255, 2 * x - 1 of 0..1; or x.clamp(-1, 1)"
        raise UsageError(f"{name} has values from {low:.4g} to {high:.4g}, needed are [-1, 1]", hint=hint)
