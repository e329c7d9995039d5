"""Networks of diffusers and deepinv: their outputs, what is recognised, what is refused."""

import json

import pytest
import torch
from foreign_vectors import CONFIGS, inputs, vectors
from golden import named_weights
from safetensors.torch import save_file

from ssdiff import load
from ssdiff.build import outline_model
from ssdiff.config.load import load_preset
from ssdiff.models import official
from ssdiff.weights.convert import import_model
from ssdiff.weights.foreign import ForeignWeights

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
