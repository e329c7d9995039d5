"""Command lines with values that nobody should give, made from the commands' own options."""

import random
from typing import Any

from ssdiff import cli

_ODD = (
    *(
        "",
        " ",
        "-1",
        "0",
        "1e309",
        "-1e309",
        "nan",
        "inf",
        "9" * 30,
        "9" * 5000,
        "--",
        "-",
        "..",
        "/dev/null",
    ),
    *("/dev/full", "é", "a" * 300, "a" * 5000, "*", "$HOME", "~nobody", "~", "[1,2", "{}", "True", "None"),
    *(
        "1,2,3",
        "0x10",
        "1_000",
        "٣",
        "∞",
        "%s%n",
        "\n",
        "\x1b[31mred",
        "a.b=c",
        "=",
        "a=",
        "=b",
        "process.T=" + "9" * 40,
    ),
    *(
        "process.T=nan",
        "process=1",
        "training.lr=-1",
        "data.size=[[[[",
        "sampling.steps=0",
        "\udcff",
        "1e3",
        "ddim0",
    ),
    *(
        "ddim" + "9" * 30,
        "1,,2",
        ",",
        "cuda:99",
        "cuda:-1",
        "mps:0",
        "here/missing/x.png",
        "x.xyz",
        ".png",
        "x.png/",
    ),
    *(
        "\\",
        "'",
        '"',
        "`id`",
        "; true",
        "-9223372036854775809",
        "18446744073709551616",
        "1.5",
        "-0.0",
        "2147483648",
    ),
    *(
        "tiny.toml",
        "../data",
        "../data/0.png",
        "../model.safetensors",
        "../trained/run",
        "celeba64",
        "inception",
    ),
    *(
        "sampling.terminal_prior.noise=0",
        "model.width=1000000000",
        "training.batch=0",
        "data.size=7",
        "level=4",
    ),
)
_SMALL = ("1", "2", "3")
_LARGE = {
    "count",
    "draws",
    "images",
    "points",
    "steps",
    "size",
    "batch",
    "columns",
    "t",
    "T",
    "samples",
    "strip",
}
_KEPT = ("--quiet",)
# Long work that was asked for is no hang.
_SHORT = {
    "train": ("--dry-run",),
    "sample": ("-n", "1"),
    "eval cost": ("--no-timing",),
    "eval fid": ("-n", "2"),
    "eval kid": ("-n", "2"),
    "eval prc": ("-n", "2"),
    "eval is": ("-n", "2"),
    "eval mind": ("-n", "2"),
    "eval restore": ("-n", "1"),
    "eval scale-space": ("--size", "8", "--images", "2", "--points", "2"),
    "eval schedule": (
        "--images",
        "2",
    ),
}


def commands() -> dict[str, Any]:
    """Return the commands by name, as Click has them."""
    found: dict[str, Any] = {}

    def walk(command: Any, name: str) -> None:
        for inner, one in getattr(command, "commands", {}).items():
            walk(one, f"{name} {inner}".strip())
        if not hasattr(command, "commands"):
            found[name] = command

    walk(cli.app, "")
    return found


def line(choice: random.Random) -> tuple[str, ...]:
    """Return a command line; some of its values are what they should be."""
    known = commands()
    names = sorted(known)
    [name] = choice.choices(names, [0.2 if name.startswith("eval") else 1.0 for name in names])
    options, arguments = [], []
    for parameter in known[name].params:
        if parameter.param_type_name == "argument":
            arguments += [_value(choice, parameter)] * (choice.random() < 0.9)
        elif choice.random() < 4 / len(known[name].params) and parameter.name not in ("help", "timing"):
            flag = choice.choice(parameter.opts)
            options += [flag] if parameter.is_flag else [flag, _value(choice, parameter)]
    return (
        *name.split(),
        *(_KEPT if _has(known[name], "--quiet") else ()),  # before a value that is "--"
        *arguments,
        *options,
        *_SHORT.get(name, ()),
    )


def _value(choice: random.Random, parameter: Any) -> str:
    if parameter.name in ("images", "image", "data", "path", "reference") and choice.random() < 0.6:
        return choice.choice(("../data", "../data/0.png"))
    if parameter.name in ("ckpt", "run", "file") and choice.random() < 0.6:
        return choice.choice(("../model.safetensors", "../trained/run"))
    if parameter.name == "preset" and choice.random() < 0.6:
        return "tiny.toml"
    if parameter.name == "out" and choice.random() < 0.6:
        return choice.choice(("out.png", "out/", "out.npz", "out.json", "out.safetensors"))
    if parameter.name in _LARGE:
        small = [value for value in _ODD if not _is_much(value)]
        return choice.choice((*_SMALL, *small))
    return choice.choice((*_SMALL, *_ODD))


def _is_much(value: str) -> bool:
    """Whether a number is one that a machine would work at for long."""
    return value.isdecimal() and int(value[:9]) > 3 and len(value) < 20


def _has(command: Any, flag: str) -> bool:
    return any(flag in parameter.opts for parameter in command.params)
