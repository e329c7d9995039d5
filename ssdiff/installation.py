"""Whether everything that ssdiff needs is installed and works on this machine."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from ssdiff.display import human_bytes
from ssdiff.errors import CheckpointError, one_line

_PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "pillow",
    "safetensors",
    "torch-fidelity",
    "pydantic",
    "typer",
    "filelock",
)


@dataclass(frozen=True, slots=True)
class Installation:
    """What was found of the installation, devices and folders.

    Attributes:
        values: versions, devices, folders and the like, by name.
        lines: the same for people.
        problems: what is broken, and how to mend it; empty where all is well.
    """

    values: dict[str, Any]
    lines: tuple[str, ...]
    problems: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return what ``ssdiff doctor --json`` prints."""
        return {**self.values, "problems": list(self.problems)}

    def __str__(self) -> str:
        verdict = [f"PROBLEM  {problem}" for problem in self.problems] or ["everything needed works"]
        return "\n".join([*self.lines, *verdict])


def check_installation() -> Installation:
    """Check packages, devices, folders and the bundled model; a check that cannot run is a finding."""
    values: dict[str, Any] = {"python": platform.python_version(), "platform": platform.platform()}
    lines = [f"python {values['python']} on {values['platform']}"]
    problems: list[str] = []
    for check in (_names, _packages, _torch, _torchvision, _folders, _model):
        try:
            check(values, lines, problems)
        except Exception as error:
            problems.append(f"{check.__name__.strip('_')}: {type(error).__name__}: {error}")
    return Installation(values, tuple(lines), tuple(problems))


def _names(values: dict[str, Any], lines: list[str], problems: list[str]) -> None:
    """Look for the unrelated distribution of the package index that has a package of our name."""
    from scale_space_diffusion import OURS, namesake, shared_files

    other = namesake()
    values["namesake"] = None if other is None else {"version": other.version, "shared": []}
    if other is None:
        return
    shared = [str(path) for path in shared_files()]
    values["namesake"]["shared"] = shared
    lines.append(
        f"NOTE  an unrelated package named ssdiff {other.version} is installed in the same folder, and "
        f"{', '.join(shared) or 'none of its files'} of both is ours now: the other package does not work, "
        f"and uninstalling it breaks this one. Keep them apart: `pip uninstall -y ssdiff`, then "
        f"`pip install --force-reinstall --no-deps {OURS}`"
    )


def _packages(values: dict[str, Any], lines: list[str], problems: list[str]) -> None:
    versions: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
            problems.append(f"{name} is not installed; run `pip install {name}`")
    values["packages"] = versions
    lines.append(", ".join(f"{name} {version or 'missing'}" for name, version in versions.items()))


def _torch(values: dict[str, Any], lines: list[str], problems: list[str]) -> None:
    import torch

    from ssdiff.devices import LARGE_NETWORK, multiplies_bf16, pick_device, pick_precision

    device = pick_device()
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    values |= {
        "device": str(device),
        "gpus": gpus,
        "threads": torch.get_num_threads(),
        "cuda_build": torch.version.cuda,
    }
    values["precision"] = str(pick_precision("auto", device, LARGE_NETWORK)).removeprefix("torch.")
    values["bf16"] = multiplies_bf16(device)
    large = f" for networks of at least {LARGE_NETWORK // 10**6} M parameters"
    lines.append(
        f"device {device}, computes in {values['precision']}"
        f"{large if values['bf16'] and device.type == 'cpu' else ''}, "
        f"bf16 {'native' if values['bf16'] else 'not native'}, {torch.get_num_threads()} threads, "
        f"GPUs: {', '.join(gpus) or 'none'}"
    )
    product = torch.ones(8, 8, device=device) @ torch.ones(8, 8, device=device)
    if float(product.sum()) != 512:
        problems.append(f"matrix products on {device} are wrong; reinstall PyTorch or use --device cpu")


def _torchvision(values: dict[str, Any], lines: list[str], problems: list[str]) -> None:
    try:
        import torchvision  # noqa: F401 - whether it can be imported is the question
    except Exception as error:
        import torch

        try:
            build = metadata.version("torchvision")
        except metadata.PackageNotFoundError:
            return  # already among the missing packages
        problems.append(
            f"torchvision {build} cannot be imported beside torch {torch.__version__} "
            f"({one_line(error)}); their builds must match: "
            "run `pip install --force-reinstall torch torchvision`"
        )


def _folders(values: dict[str, Any], lines: list[str], problems: list[str]) -> None:
    from ssdiff.home import cache_root, default_home

    for name, folder in (("runs", default_home()), ("cache", cache_root())):
        there = next(path for path in (folder, *folder.parents) if path.exists())
        free, writable = shutil.disk_usage(there).free, os.access(there, os.W_OK)
        values[name] = {"path": str(folder), "free_bytes": free, "writable": writable}
        lines.append(f"{name} folder {folder}, {human_bytes(free)} free")
        if not writable:
            problems.append(f"{folder} cannot be written; set SSDIFF_HOME to a folder of yours")
    shared = Path("/dev/shm")
    if shared.exists():
        values["shared_memory_bytes"] = shutil.disk_usage(shared).total
        lines.append(f"shared memory {human_bytes(values['shared_memory_bytes'])}")


def _model(values: dict[str, Any], lines: list[str], problems: list[str]) -> None:
    from ssdiff.weights import single_file

    try:
        stored = single_file.read(single_file.bundled())
    except CheckpointError as error:
        problems.append(f"the model that ships with ssdiff: {error.args[0]}; reinstall ssdiff")
        return
    values["bundled_model"] = stored.preset.name
    lines.append(f"bundled model {stored.preset.name}, step {stored.step}")
