"""`ssdiff import` of the authors' files by name, of shared adapters and of guided-diffusion's U-Nets."""

from pathlib import Path

import pytest
import torch
from golden import golden, named_weights, normal
from officialweights import official

from ssdiff import load
from ssdiff.weights.convert import import_model
from ssdiff.weights.foreign import preset_named

RELEASED = {
    "ssd_64res_celeba_2levels_ema_0.9999_1000000.pt": "celeba64-2l",
    "ssd_64res_celeba_4levels_ema_0.9999_1000000.pt": "celeba64",
    "ssd_128res_celeba_3levels_ema_0.9999_300000.pt": "celeba128-3l",
    "ssd_128res_celeba_5levels_ema_0.9999_300000.pt": "celeba128",
    "ssd_256res_celeba_3levels_ema_0.9999_300000.pt": "celeba256-3l",
    "ssd_256res_celeba_6levels_ema_0.9999_300000.pt": "celeba256",
    "ssd_64res_imagenet_2levels_ema_0.9999_1000000.pt": "imagenet64",
    "ssd_celeba_256px_4L.pt": "celeba256-4l",
}
WIDTHS = {"data.size": 32, "process.levels": 3, "model.width": 32, "model.multipliers": [1, 2, 4]}
SETS = [part for name, value in WIDTHS.items() for part in ("--set", f"{name}={value}")]


@pytest.mark.parametrize("name", RELEASED)
def test_released_files_are_known_by_name(name):
    assert preset_named(Path("some") / name) == RELEASED[name]


@pytest.mark.parametrize(
    ("name", "warnings"),
    [
        ("ssd_32res_celeba_3levels_ema_0.9999_10.pt", []),
        ("model.pt", []),
        ("ssd_32res_celeba_2levels_ema_0.9999_10.pt", ["2 levels, celeba64 has 3"]),
        ("ssd_64res_celeba_3levels.pt", ["64 px, celeba64 has 32"]),
        ("ssd_32res_imagenet_3levels.pt", ["imagenet, not celeba64"]),
        ("ssd_64res_celeba_2levels.pt", ["64 px, celeba64 has 32; 2 levels", "--preset celeba64-2l"]),
    ],
)
def test_a_name_that_contradicts_the_preset_is_told(ssdiff, result, tmp_path, name, warnings):
    torch.save(official(), tmp_path / name)
    command = ("import", tmp_path / name, "--preset", "celeba64", *SETS, "--out", tmp_path / "x.safetensors")
    found = result(*command)["warnings"]
    assert len(found) == bool(warnings) and all(words in found[0] for words in warnings)
    code, out, err = ssdiff(*command, "--overwrite")
    assert code == 0 and ("warning: the name" in err) == bool(warnings) and "next  ssdiff sample" in out


def test_without_a_preset_the_name_has_to_say_it(ssdiff, tmp_path):
    torch.save(official(), tmp_path / "model.pt")
    code, _, err = ssdiff("import", tmp_path / "model.pt", "--out", tmp_path / "x.safetensors")
    assert code == 2 and "give --preset" in err and err.count("\n") == 1
    torch.save({"a": torch.zeros(2)}, tmp_path / "other.pt")
    code, _, err = ssdiff("import", tmp_path / "other.pt", "--out", tmp_path / "x.safetensors")
    assert code == 4 and err.count("\n") == 1
    torch.save(official(), tmp_path / "ssd_64res_celeba_2levels.pt")
    code, _, err = ssdiff(
        "import", tmp_path / "ssd_64res_celeba_2levels.pt", "--out", tmp_path / "x.safetensors"
    )
    assert code == 4 and "128 in celeba64-2l" in err
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize("averaged", [False, True])
def test_shared_adapters_with_two_values(ssdiff, result, tmp_path, averaged):
    published = golden("flexi_256_shared_adapters")
    file, out = tmp_path / "ssd_256res_celeba_6levels_ema.pt", tmp_path / "x.safetensors"
    torch.save(named_weights(published.meta["keys"]), file)
    values = result(
        "import",
        file,
        "--preset",
        "celeba256",
        "--set",
        "model.width=32",
        "--out",
        out,
        *(["--averaged-adapters"] if averaged else []),
    )
    (note,) = values["notes"]
    for first, later in published.meta["shared_adapters"]:
        assert f"{first} and {later}" in note
    assert ("averaged one, of the first name" in note) == averaged and values["warnings"] == []
    name = "y_first_972" if averaged else "y_last_972"
    entry = published.meta["arrays"][name]
    x = normal(int(entry["x"].removeprefix("seed ")), entry["input_shape"])
    pipe = load(out, device="cpu")
    published.check(name, pipe.model(x, torch.tensor([entry["i"]]), entry["rs"]), atol=1e-4)


def test_settings_that_need_training_images_are_told_to_be_set_back(result, tmp_path):
    published = golden("flexi_256_shared_adapters")
    file = tmp_path / "ssd_256res_celeba_6levels_ema.pt"
    torch.save(named_weights(published.meta["keys"]), file)
    sets = ("--set", "model.width=32", "--set", "sampling.correction=0.5")
    values = result("import", file, "--preset", "celeba256", *sets, "--out", tmp_path / "x.safetensors")
    assert any("(asked != now): sampling.correction: 0.5 != 0" in note for note in values["notes"])


def guided(name):
    case = golden("adm_unet").meta["cases"][name]
    return case, named_weights(case["keys"])


PLAIN = {
    "data.size": 32,
    "model.width": 32,
    "model.multipliers": [1, 2, 2],
    "model.blocks": 1,
    "model.resblock_updown": True,
    "model.learn_sigma": True,
    "model.head_channels": 32,
    "model.attention_order": "qkv-first",
    "sampling.steps": 3,
}


def test_guided_diffusion_lives_on(result, tmp_path):
    """Import, info, cost, sample; and the file gives the published numbers."""
    published = golden("adm_unet")
    _, state = guided("updown_new")
    torch.save(state, tmp_path / "adm.pt")
    sets = [part for name, value in PLAIN.items() for part in ("--set", f"{name}={str(value).lower()}")]
    model = tmp_path / "adm.safetensors"
    made = result("import", tmp_path / "adm.pt", "--preset", "ddpm-imagenet64", *sets, "--out", model)
    assert made["layout"] == "plain UNet"
    assert "head_channels = 32" in made["notes"][1] and "learned variance" in made["notes"][0]
    assert result("info", model)["preset"] == "ddpm-imagenet64"
    assert result("eval", "cost", model, "--steps", "ddim4")["sampling"]["steps"] == 4
    drawn = result("sample", "--ckpt", model, "-n", 2, "--out", tmp_path / "x.png", "--device", "cpu")
    assert (drawn["steps"], drawn["variance"]) == (3, "fixed_large")
    entry = published.meta["arrays"]["updown_new_t500"]
    pipe = load(model, device="cpu")
    seen = []
    pipe.model.head.register_forward_hook(lambda module, inputs, output: seen.append(output))
    pipe.predict_x0(normal(int(entry["x"].removeprefix("seed ")), entry["input_shape"]), 500)
    published.check("updown_new_t500", seen[0], atol=1e-4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model.resblock_updown": False}, "--set 'model.resblock_updown=true'"),
        ({"model.learn_sigma": False}, "model.learn_sigma is true in the file, false in"),
        ({"model.scale_shift_norm": False}, "--set 'model.scale_shift_norm=true'"),
        ({"model.attention": [8]}, "--set 'model.attention=[16, 8]'"),
        ({"model.full_decoder": False}, "model.full_decoder = true"),
    ],
)
def test_import_says_what_to_set(tmp_path, change, words):
    _, state = guided("updown_new")
    torch.save(state, tmp_path / "adm.pt")
    with pytest.raises(Exception, match="the weight") as caught:
        import_model(
            tmp_path / "adm.pt", "ddpm-imagenet64", tmp_path / "x.safetensors", overrides=PLAIN | change
        )
    assert words in f"{caught.value}" and "\n" not in f"{caught.value}"
    assert not (tmp_path / "x.safetensors").exists()
