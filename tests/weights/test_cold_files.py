"""Files that the authors of cold diffusion released: what they hold, compared with a preset; the commands."""

import math

import numpy as np
import pytest
import torch
from golden import golden, named_weights
from PIL import Image
from safetensors.torch import save_file

from ssdiff import import_official, load
from ssdiff.build import build_process
from ssdiff.config.load import load_preset
from ssdiff.errors import CheckpointError, UsageError
from ssdiff.models import official_cold
from ssdiff.weights import process_tables, released
from ssdiff.weights.untrusted import read_weights

T, TAPS = 6, 5
KEYS = golden("convnext_unet").meta["cases"]["rgb_two"]["keys"]
NETWORK = {"data.size": 16, "model.width": 16, "model.multipliers": [1, 2]}
SMALL = {
    **NETWORK,
    "process.T": T,
    "process.degradation.kernel": TAPS,
    "sampling.steps": T,
}
SETS = [part for name, value in SMALL.items() for part in ("--set", f"{name}={value}")]
WHOLE = torch.ones(3, dtype=torch.int64)
BLUR = "cold-blur-celeba128-gen"


def kernels(count=T, taps=TAPS, growth=0.01):
    """Of the blurs, as the authors' code makes them: sampled Gaussians, float32."""
    made = {}
    for i in range(count):
        row = torch.exp(-((torch.arange(taps) - taps // 2) ** 2) / (2 * math.exp(growth * i) ** 2))
        row = row / row.sum()
        made[f"module.gaussian_kernels.{i}.weight"] = torch.outer(row, row).expand(3, 1, taps, taps).clone()
    return made


def network(scale=1.0, prefix="module.denoise_fn."):
    return {prefix + name: scale * value for name, value in named_weights(KEYS).items()}


def blur(**options):
    return network() | kernels(**options)


def preset(name=BLUR, **changes):
    return load_preset(name, (SMALL if name == BLUR else NETWORK) | changes)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("released") / "model.pt"
    torch.save({"step": 700_000, "model": blur(), "ema": network(0.5) | kernels()}, path)
    return path


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for i in range(6):
        pixels = np.random.RandomState(i).randint(0, 256, (16, 16, 3)).astype("uint8")
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def test_a_released_file_lives_its_whole_life(result, ssdiff, file, photographs, tmp_path):
    out = tmp_path / "m.safetensors"
    values = result("import", file, "--preset", BLUR, *SETS, "--data", photographs, "--out", out)
    assert values["layout"] == "ConvNeXt U-Net" and values["weights"] == len(KEYS)
    assert values["notes"] == [f"its {T} blur kernels are those of {BLUR}"]
    result("sample", "--ckpt", out, "-n", 2, "--steps", 3, "--out", tmp_path / "s.png")
    strip = tmp_path / "strip"
    result("restore", photographs, "--ckpt", out, "--degrade", "--t", 3, "--out", strip)
    assert len(list(strip.iterdir())) == 6
    assert result("info", out)["parameters"] == sum(math.prod(shape) for shape in KEYS.values())
    assert result("export", out, "--half", "--out", tmp_path / "half.safetensors")["preset"] == BLUR
    assert load(tmp_path / "half.safetensors", device="cpu").sample(1, steps=2).shape == (1, 3, 16, 16)
    code, _, err = ssdiff("import", file, "--preset", BLUR, *SETS, "--out", out)
    assert code == 2 and "--overwrite" in err


def test_generation_begins_at_the_colours_of_the_data(file, photographs):
    pipe = import_official(file, preset(), device="cpu", data=photographs)
    drawn = pipe.terminal_prior.draw(1, torch.arange(500)).mean((0, 2, 3))
    pixels = [np.asarray(Image.open(path), dtype=float) for path in sorted(photographs.iterdir())]
    wanted = torch.tensor(np.mean(pixels, axis=(0, 1, 2)) / 127.5 - 1)
    torch.testing.assert_close(drawn.double(), wanted, atol=0.02, rtol=0)


def test_without_data_it_restores_only_and_says_so(result, ssdiff, file, tmp_path):
    out = tmp_path / "m.safetensors"
    values = result("import", file, "--preset", BLUR, *SETS, "--out", out)
    assert any("--data" in note for note in values["notes"])
    said = ssdiff("import", file, "--preset", BLUR, *SETS, "--out", out, "--overwrite")[1]
    assert "next  ssdiff restore" in said and "ssdiff sample" not in said
    assert "step None" not in ssdiff("info", out)[1]
    code, _, err = ssdiff("sample", "--ckpt", out, "-n", 1, "--out", tmp_path / "s.png")
    assert code == 2 and "import them with --data" in err and err.count("\n") == 1


def test_averaged_weights_are_preferred(file, tmp_path):
    name = "module.denoise_fn.final_conv.1.bias"
    averaged, raw = read_weights(file), read_weights(file, "raw")
    assert torch.equal(averaged[name], 0.5 * raw[name])
    for weights, state in (("ema", averaged), ("raw", raw)):
        pipe = import_official(file, preset(), device="cpu", weights=weights)
        assert torch.equal(pipe.model.state_dict()["head.bias"], state[name])
    torch.save(blur(), tmp_path / "bare.pt")
    save_file(blur(), tmp_path / "bare.safetensors")
    for bare in ("bare.pt", "bare.safetensors"):
        with pytest.raises(CheckpointError, match="one set of weights"):
            read_weights(tmp_path / bare, "raw")
    with pytest.raises(UsageError, match="choose one of ema, raw"):
        read_weights(file, "best")


@pytest.mark.parametrize(
    "prefix", ["", "denoise_fn.", "module.", "module.defade_fn.", "_orig_mod.module.denoise_fn."]
)
def test_every_prefix(prefix):
    snow = preset("cold-snow-celeba128")
    pipe = import_official(network(prefix=prefix), snow, device="cpu")
    assert torch.equal(pipe.model.state_dict()["head.bias"], named_weights(KEYS)["final_conv.1.bias"])
    told = process_tables.check_tables({}, snow)
    assert told == [
        "the file does not say what it restores; cold-snow-celeba128 says degradation 'snow', T = 200"
    ]


@pytest.mark.parametrize(
    ("state", "options", "words"),
    [
        (lambda: blur(count=5), [], f"the file has T = 5, {BLUR} has T = {T}"),
        (lambda: blur(taps=7), [], "kernels of (3, 1, 7, 7)"),
        (lambda: blur() | {"module.gaussian_kernels.1.weight": torch.tensor(1.0)}, [], "is damaged"),
        (lambda: blur() | {"module.gaussian_kernels.1.weight": WHOLE}, [], "is damaged"),
        (lambda: network() | {"module.alphas_cumprod": WHOLE}, [], "has degradation 'blur'"),
        (lambda: blur() | {"module.denoise_fn.final_conv.1.bias": WHOLE}, [], "not real"),
        (lambda: blur(growth=0.02), [], "another gaussian_kernels.1.weight, off by"),
        (lambda: {n: v for n, v in blur().items() if ".2.w" not in n or "kernels" not in n}, [], "T = 5"),
        (blur, ["--set", "process.degradation.std=constant"], "another gaussian_kernels.1.weight"),
        (blur, ["--set", "model.width=8"], "model.width is 16 in the file, 8 in"),
        (blur, ["--set", "model.options.time_embedding=false"], "left over, e.g. downs.0.0.mlp.1.bias"),
        (lambda: blur() | {"module.gamma": torch.zeros(3)}, [], "1 left over, e.g. module.gamma"),
        (lambda: {"a": torch.zeros(2)}, [], "known are Flexi-UNet"),
        (lambda: {"encoder.0.parts.0.expand.weight": torch.zeros(2)}, [], "that of ssdiff"),
        (lambda: {"input_blocks.0.0.weight": torch.zeros(8, 3, 3, 3)}, [], "are of a flexi-unet"),
    ],
)  # fmt: skip
def test_files_that_contradict_the_preset_are_refused(ssdiff, tmp_path, monkeypatch, state, options, words):
    monkeypatch.chdir(tmp_path)
    torch.save(state(), "x.pt")
    code, _, err = ssdiff("import", "x.pt", "--preset", BLUR, *SETS, *options, "--out", "x.safetensors")
    assert code == 4 and words in err and err.count("\n") == 1, err
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]


@pytest.mark.parametrize("name", ["celeba64", "cold-blur-cifar10", "cold-snow-celeba128"])
def test_the_refusal_says_which_preset_fits(name):
    full = golden("convnext_checkpoints").meta["network_keys"]
    state = {f"module.denoise_fn.{key}": torch.zeros(shape) for key, shape in full.items()}
    with pytest.raises(CheckpointError) as caught:
        import_official(state | kernels(count=300, taps=27), name, device="cpu")
    assert "use --preset cold-blur-afhq128-gen or cold-blur-celeba128-gen" in str(caught.value)


def test_data_for_a_preset_that_fits_nothing_is_refused(photographs):
    with pytest.raises(UsageError, match="fits nothing to a data set"):
        import_official(network(), preset("cold-snow-celeba128"), device="cpu", data=photographs)


def shares(name, **changes):
    """Tables of a file of noise, animorphosis or generation masks, for the process of a preset."""
    settings = preset(name, **changes)
    process = build_process(settings, other=lambda images, shape: torch.zeros(len(images), *shape))
    share = torch.stack(
        [process_tables._share(process, t, settings.data.size) for t in range(1, settings.process.T + 1)]
    )
    if settings.process.degradation.kind == "mask":
        return settings, {"alphas": share[:, None].float(), "one_minus_alphas": 1 - share[:, None].float()}
    a = share[:, 0, 0]
    tables = {
        "alphas_cumprod": a**2,
        "sqrt_alphas_cumprod": a,
        "sqrt_one_minus_alphas_cumprod": (1 - a**2).sqrt(),
    }
    return settings, {key: value.float() for key, value in tables.items()}


@pytest.mark.parametrize(
    "name", ["cold-noise-celeba128", "cold-animorph-celeba128", "cold-mask-celeba128-gen"]
)
def test_tables_of_mixtures_and_masks(name):
    few = {"process.T": 12, "sampling.steps": 12} | (
        {"process.degradation.bumps": 12} if "mask" in name else {}
    )
    settings, tables = shares(name, **few)
    state = network() | {f"module.{key}": value for key, value in tables.items()}
    pipe = import_official(state, settings, device="cpu")
    assert pipe.preset.process == settings.process
    assert released.suited_presets(official_cold.read_layout(state)) == [], "none has so small a network"
    key = next(iter(tables))
    for changed, words in (
        ({key: tables[key] + 1e-3}, f"other {key}, off by 0.001"),
        ({key: tables[key] * float("nan")}, f"other {key}, off by 1"),
        ({other: value[:-1] for other, value in tables.items()}, "the file has T = "),
        ({key: tables[key][:-1]}, f"entries of {key}"),
    ):
        with pytest.raises(CheckpointError, match=words):
            import_official(state | {f"module.{k}": v for k, v in changed.items()}, settings, device="cpu")


def test_the_published_schedule_is_that_of_the_presets():
    """The released animorphosis file has the schedule of golden/cold_noise."""
    schedules = golden("cold_noise")
    _, tables = shares("cold-animorph-celeba128")
    schedules.check("a_200", tables["sqrt_alphas_cumprod"], atol=5e-5)
    schedules.check("sigma_200", tables["sqrt_one_minus_alphas_cumprod"], atol=5e-5)
