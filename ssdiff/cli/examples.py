"""The example that ends the help of each command."""

from __future__ import annotations

import typer

EXAMPLES = {
    "train": "--preset shapes32 --steps 500 --out shapes",
    "sample": "-n 16 --steps 50 --sampler ddim --out grid.png",
    "degrade": "photo.jpg --op blur --t 500 --out blurred.png",
    "restore": "photo.jpg --op blur --t 500 --degrade --compare --out restored.png",
    "import": "weights.pt --preset celeba64 --out celeba64.safetensors",
    "export": "shapes --out shapes.safetensors",
    "info": "shapes",
    "doctor": "--json",
    "presets list": "",
    "presets show": "shapes32 --set training.steps=500",
    "data prepare": "photos/ --size 64",
    "eval cost": "celeba64",
    "eval scale-space": "--data photos/ --size 32 --out scale-space/",
    "eval report": "shapes --out report.html",
    "eval schedule": "--data photos/ --preset celeba64-matched --out planned/",
    "eval restore": "photos/ --ckpt shapes --out restored.json",
    "eval fid": "--reference photos/ --ckpt shapes --count 5000",
    "eval kid": "--reference photos/ --ckpt shapes --count 5000",
    "eval prc": "--reference photos/ --ckpt shapes --count 5000",
    "eval is": "--ckpt shapes --count 5000",
    "eval mind": "--reference photos/ --ckpt shapes --count 2000",
}


def add_examples(app: typer.Typer, path: str = "") -> None:
    """End the help of each command with its example."""
    for info in app.registered_commands:
        name = info.name or getattr(info.callback, "__name__", "").replace("_", "-")
        if (arguments := EXAMPLES.get(f"{path}{name}")) is not None:
            info.epilog = f"Example: ssdiff {path}{name} {arguments}".rstrip()
    for group in app.registered_groups:
        if group.typer_instance is not None:
            add_examples(group.typer_instance, f"{path}{group.name} ")
