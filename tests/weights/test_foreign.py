"""Networks of diffusers and deepinv: their outputs, what is recognised, what is refused."""

import json

import pytest
import torch
from foreign_vectors import CONFIGS, inputs, vectors
from golden import golden, named_weights
from safetensors.torch import save_file

from ssdiff import load
from ssdiff.build import build_states, outline_model
from ssdiff.config.load import load_preset
from ssdiff.errors import CheckpointError, UsageError
from ssdiff.models import official
from ssdiff.models.diffusers_layout import convert_diffusers
from ssdiff.weights.convert import import_model
from ssdiff.weights.diffusers_folder import read_folder
from ssdiff.weights.foreign import ForeignWeights, open_foreign

DDPM = {"_class_name": "DDPMScheduler", "num_train_timesteps": 1000, "beta_schedule": "linear"}


def write(folder, config, scheduler=DDPM, state=None, top=False):
    """A folder as ``save_pretrained`` writes it."""
    unet = folder if top else folder / "unet"
    unet.mkdir(parents=True, exist_ok=True)
    (unet / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel", **config}))
    if scheduler is not None:
        (folder / "scheduler").mkdir(exist_ok=True)
        (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    if state is not None:
        save_file(state, unet / "diffusion_pytorch_model.safetensors")
    return folder


def weights(name):
    return named_weights(vectors()[0][name])


def whole_output(model, x, index, labels):
    seen = []
    hook = model.head.register_forward_hook(lambda module, given, output: seen.append(output))
    with torch.no_grad():
        model(x, torch.full((len(x),), index), x.shape[-1], labels)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("name", CONFIGS)
def test_outputs_are_those_of_diffusers(name, tmp_path):
    folder = write(tmp_path / "net", CONFIGS[name], state=weights(name))
    made = import_model(folder, None, tmp_path / "x.safetensors")
    assert made.layout == "UNet2DModel of diffusers" and made.weights < made.found + 2
    pipe = load(tmp_path / "x.safetensors", device="cpu")
    x, indices, labels = inputs(CONFIGS[name])
    for index in indices:
        wanted = torch.from_numpy(vectors()[1][f"{name}_{index}"])
        torch.testing.assert_close(whole_output(pipe.model, x, index, labels), wanted, atol=1e-5, rtol=0)


# guided-diffusion by its weights alone

GUIDED = {
    "adm-ffhq256": (128, (1, 1, 2, 2, 4, 4), 1, 0),
    "adm-imagenet64": (192, (1, 2, 3, 4), 3, 1000),
    "adm-imagenet128": (256, (1, 1, 2, 3, 4), 2, 1000),
    "adm-imagenet256": (256, (1, 1, 2, 2, 4, 4), 2, 0),
    "adm-imagenet256-cond": (256, (1, 1, 2, 2, 4, 4), 2, 1000),
    "adm-imagenet512": (128, (1, 2, 2, 4, 4, 8, 8), 2, 1000),
}


def published(name):
    """Weights, without numbers, as guided-diffusion's released file has them: of 1000 classes, none for 'no
    class'."""
    model = outline_model(load_preset(name))
    ours = model.state_dict()
    state = {theirs: ours[name] for name, theirs in official._table(model)}
    if "label_emb.weight" in state:
        state["label_emb.weight"] = state["label_emb.weight"][:-1]
    return state


@pytest.mark.parametrize("name", GUIDED)
def test_released_networks_are_recognised_by_their_weights(name):
    width, multipliers, blocks, classes = GUIDED[name]
    settings, notes = ForeignWeights(None, published(name)).preset()
    assert settings.name == name and notes == []
    model = settings.model
    assert (model.width, model.multipliers, model.blocks, model.classes) == (
        width,
        multipliers,
        blocks,
        classes,
    )


def test_deepinv_has_the_network_of_ffhq():
    state = {name: torch.zeros(shape, device="meta") for name, shape in vectors()[0]["deepinv"].items()}
    weights, tables = official.split_tables(state)
    assert tables.keys() == {"sqrt_alphas_cumprod", "sqrt_1m_alphas_cumprod"}
    settings, _ = ForeignWeights(None, state).preset()
    assert settings.name == "adm-ffhq256"
    converted = official.convert_weights(weights, outline_model(settings))
    assert sum(value.numel() for value in converted.values()) == 93_563_910


def test_what_weights_do_not_show_is_told_and_can_be_set(tmp_path):
    state = named_weights(golden("adm_unet").meta["cases"]["updown_new"]["keys"])
    settings, notes = ForeignWeights(tmp_path / "my net.pt", state).preset()
    assert (settings.name, settings.data.size, settings.model.head_channels) == ("my net", 32, 64)
    assert len(notes) == 1 and "taken are 32 px" in notes[0]
    settings, notes = ForeignWeights(tmp_path / "64x64.pt", state).preset({"model.head_channels": 32})
    assert (settings.data.size, settings.model.attention, settings.model.head_channels, notes) == (
        64,
        (32, 16),
        32,
        [],
    )
    settings, _ = ForeignWeights(tmp_path / "64x64.pt", state).preset({"data.size": 16})
    assert settings.data.size == 16


def test_the_network_of_two_methods_is_refused_with_their_presets():
    state = {
        theirs: outline_model(load_preset("ddpm-celeba64")).state_dict()[ours]
        for ours, theirs in official._table(outline_model(load_preset("ddpm-celeba64")))
        if not theirs.startswith("adapters")
    }
    with pytest.raises(UsageError) as caught:
        ForeignWeights(None, state).preset()
    assert "ddpm-celeba64" in str(caught.value.hint) and "--preset" in str(caught.value.hint)


def test_tables_of_deepinv_must_be_those_of_the_noise(tmp_path):
    keys = golden("adm_unet").meta["cases"]["updown_new"]["keys"]
    share = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
    tables = {"sqrt_alphas_cumprod": share.sqrt(), "sqrt_1m_alphas_cumprod": (1 - share).sqrt()}
    torch.save(named_weights(keys) | tables, tmp_path / "net.pt")
    made = import_model(tmp_path / "net.pt", None, tmp_path / "x.safetensors")
    assert any("are those of the noise schedule" in note for note in made.notes)
    cosine = {"process.noise.kind": "cosine"}
    with pytest.raises(CheckpointError, match=r"other sqrt_alphas_cumprod, off by .* at t = "):
        import_model(tmp_path / "net.pt", None, tmp_path / "y.safetensors", overrides=cosine)
    torch.save(named_weights(keys) | {"sqrt_alphas_cumprod": torch.ones(7)}, tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match=r"sqrt_alphas_cumprod of \(7,\)"):
        import_model(tmp_path / "net.pt", None, tmp_path / "y.safetensors")


# Folders of diffusers


def shard(folder, state):
    """The weights in two files with an index."""
    unet, names = folder / "unet", sorted(state)
    (unet / "diffusion_pytorch_model.safetensors").unlink()
    table = {name: f"part-{i % 2}.safetensors" for i, name in enumerate(names)}
    for file in set(table.values()):
        save_file({name: state[name] for name in names if table[name] == file}, unet / file)
    index = unet / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": table}))
    return index


def test_every_place_of_weights(tmp_path):
    state, config = weights("grey"), CONFIGS["grey"]
    read = [open_foreign(write(tmp_path / "pipeline", config, state=state)).state]
    top = write(tmp_path / "top", config, state=state, top=True)
    read += [open_foreign(top).state, open_foreign(top / "diffusion_pytorch_model.safetensors").state]
    shard(tmp_path / "pipeline", state)
    read.append(open_foreign(tmp_path / "pipeline").state)
    pickled = write(tmp_path / "pickled", config)
    torch.save(state, pickled / "unet" / "diffusion_pytorch_model.bin")
    read.append(open_foreign(pickled).state)
    for found in read:
        assert found.keys() == state.keys() and all(torch.equal(found[name], state[name]) for name in state)


def test_names_of_former_versions(tmp_path):
    folder, state = read_folder(write(tmp_path / "net", CONFIGS["ddpm"])), weights("ddpm")
    old = {}
    for name, value in state.items():
        for now, then in {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}.items():
            name = name.replace(f".{now}.", f".{then}.")
        old[name] = value
    assert len(old.keys() - state.keys()) == 6 * 8, "six attentions of four layers"
    model = outline_model(ForeignWeights(None, old, folder).preset()[0])
    found, wanted = convert_diffusers(old, model), convert_diffusers(state, model)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize(
    ("scheduler", "wanted"),
    [
        (None, ("linear", 1000, "eps", True)),
        (DDPM, ("linear", 1000, "eps", True)),
        (
            DDPM | {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "sample"},
            ("cosine", 1000, "x0", True),
        ),
        (
            DDPM
            | {"beta_schedule": "scaled_linear", "prediction_type": "v_prediction", "clip_sample": False},
            ("scaled_linear", 1000, "v", False),
        ),
        (DDPM | {"num_train_timesteps": 200}, ("linear", 200, "eps", True)),
    ],
)
def test_schedulers(tmp_path, scheduler, wanted):
    folder = read_folder(write(tmp_path / "net", CONFIGS["grey"], scheduler))
    settings, notes = ForeignWeights(tmp_path / "net", {}, folder).preset()
    process = settings.process
    assert (process.noise.kind, process.T, process.predict, settings.sampling.clip_denoised) == wanted
    assert len(notes) == (scheduler is None)
    steps = wanted[1]
    given = scheduler or {}
    start, end = given.get("beta_start", 1e-4), given.get("beta_end", 0.02)
    betas = {
        "linear": torch.linspace(start, end, steps, dtype=torch.float64),
        "scaled_linear": torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2,
    }.get(wanted[0])
    if betas is not None:
        share = torch.cumprod(1 - betas, 0)
        own = torch.tensor([state.signal for state in build_states(settings)[1:]], dtype=torch.float64)
        torch.testing.assert_close(own, share.sqrt(), atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    ("config", "scheduler", "words"),
    [
        ({"_class_name": "UNet2DConditionModel"}, DDPM, "a UNet2DConditionModel, not a UNet2DModel"),
        ({"_class_name": None}, DDPM, "of a class that it does not name"),
        (
            {"down_block_types": ["SkipDownBlock2D", "DownBlock2D"]},
            DDPM,
            "down_block_types of SkipDownBlock2D",
        ),
        ({"up_block_types": ["UpBlock2D"]}, DDPM, "up_block_types of another number"),
        ({"time_embedding_type": "fourier"}, DDPM, 'time_embedding_type "fourier"'),
        ({"class_embed_type": "timestep"}, DDPM, 'class_embed_type "timestep"'),
        ({"in_channels": 4, "out_channels": 4}, DDPM, "in_channels 4"),
        ({"block_out_channels": [16, "a"]}, DDPM, "block_out_channels"),
        ({"layers_per_block": True}, DDPM, "layers_per_block true"),
        ({"sample_size": [8, 16]}, DDPM, "sample_size"),
        ({"norm_num_groups": 7}, DDPM, "7 does not divide the 16 channels"),
        ({"attention_head_dim": 5}, DDPM, "5 does not divide"),
        ({}, {"_class_name": "ScoreSdeVeScheduler"}, "ScoreSdeVeScheduler with no beta_schedule"),
        ({}, DDPM | {"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
        ({}, DDPM | {"beta_schedule": "sigmoid"}, "sigmoid"),
        ({}, DDPM | {"num_train_timesteps": "many"}, "num_train_timesteps"),
        ({"layers_per_block": 2}, DDPM, "down_blocks.0.resnets.1.norm1.weight"),
        ({"block_out_channels": [16, 48]}, DDPM, "the weight up_blocks.1.resnets.0.norm1.weight is (48,)"),
        ({"num_class_embeds": 3}, DDPM, "class_embedding.weight"),
        ({"resnet_time_scale_shift": "scale_shift"}, DDPM, "time_emb_proj.weight is"),
    ],
)
def test_settings_that_are_unknown_or_contradict_the_weights(ssdiff, tmp_path, config, scheduler, words):
    folder = write(tmp_path / "net", CONFIGS["grey"] | config, scheduler, weights("grey"))
    code, _, err = ssdiff("import", folder, "--out", tmp_path / "x.safetensors")
    assert code in (2, 4) and words in err and err.count("\n") == 1, err
    assert not (tmp_path / "x.safetensors").exists()


def test_folders_that_lack_something(ssdiff, tmp_path):
    def refusal(path):
        code, _, err = ssdiff("import", path, "--out", tmp_path / "x.safetensors")
        assert code == 4 and err.count("\n") == 1, err
        return err

    (tmp_path / "empty").mkdir()
    assert "neither unet/config.json nor config.json" in refusal(tmp_path / "empty")
    folder = write(tmp_path / "net", CONFIGS["grey"])
    assert "no weights in" in refusal(folder)
    save_file(weights("grey"), tmp_path / "diffusion_pytorch_model.safetensors")
    assert "no config.json is beside" in refusal(tmp_path / "diffusion_pytorch_model.safetensors")
    write(tmp_path / "net", CONFIGS["grey"], state=weights("grey"))
    index = shard(folder, weights("grey"))
    table = json.loads(index.read_text())
    table["weight_map"]["more.weight"] = "part-0.safetensors"
    index.write_text(json.dumps(table))
    assert "1 weights that its files have not, e.g. more.weight" in refusal(folder)
    table["weight_map"]["more.weight"] = "../part-0.safetensors"
    index.write_text(json.dumps(table))
    assert "no weight_map of files beside it" in refusal(folder)
    (folder / "unet" / "config.json").write_text("{")
    assert "cannot be read as JSON" in refusal(folder)
    (folder / "model_index.json").write_text(
        json.dumps({"_class_name": "DiTPipeline", "transformer": ["diffusers", "DiTTransformer2DModel"]})
    )
    assert "DiTTransformer2DModel" in refusal(folder)


def test_a_folder_lives_its_whole_life(result, tmp_path):
    folder, model = (
        write(tmp_path / "net", CONFIGS["ddpm"], state=weights("ddpm")),
        tmp_path / "m.safetensors",
    )
    made = result("import", folder, "--out", model)
    assert made["layout"] == "UNet2DModel of diffusers" and made["preset"] == "net" and made["notes"] == []
    assert result("info", model)["preset"] == "net"
    assert result("sample", "--ckpt", model, "-n", 2, "--steps", 3, "--out", tmp_path / "x.png")["steps"] == 3
    picture = tmp_path / "x.png"
    result(
        *("restore", picture, "--ckpt", model, "--op", "inpaint", "--degrade", "--steps", 2),
        *("--out", tmp_path / "restored"),
    )
    assert len(list((tmp_path / "restored").iterdir())) >= 1
    assert result("export", model, "--half", "--out", tmp_path / "half.safetensors")["preset"] == "net"
    assert result("eval", "cost", tmp_path / "half.safetensors", "--steps", "3")["sampling"]["steps"] == 3
