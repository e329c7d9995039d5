"""Own parts from a user's file, through the life of a model: networks, degradations, noise schedules."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
import torch
from torch import nn

import ssdiff
from ssdiff import checkpoints, plugins
from ssdiff.build import build_process, outline_model
from ssdiff.config.load import load_preset, override, parse_preset
from ssdiff.errors import PresetError, SsdiffError, UsageError
from ssdiff.evaluation.flops import path_costs
from ssdiff.models.adapter import adapt
from ssdiff.schedules.noise import build_noise

from conftest import TINY, run_command  # isort: skip


@pytest.fixture(scope="session")
def shell():
    """Run the real command in a process of its own that knows no plugin yet."""
    return partial(run_command, fork=False)


MINE = '''
"""A small network as a plain nn.Module, a degradation, a noise schedule."""
import torch
from torch import nn

import ssdiff
from ssdiff.operators.pixelwise import Mask
from ssdiff.process.degradations.base import LinearDegradation


@ssdiff.register_model("{tag}-unet")
class SmallUNet(nn.Module):
    def __init__(self, channels, classes, *, features=8):
        super().__init__()
        self.down = nn.Conv2d(channels, features, 3, stride=2, padding=1)
        self.stats = nn.BatchNorm2d(features)
        self.time = nn.Linear(1, features)
        self.label = nn.Embedding(classes + 1, features)
        self.up = nn.ConvTranspose2d(features, channels, 4, stride=2, padding=1)

    def forward(self, x, t, labels):
        h = self.stats(self.down(x)) + self.time(t[:, None] / 20.0)[:, :, None, None]
        h = nn.functional.dropout(h + self.label(labels)[:, :, None, None], 0.1, self.training)
        return self.up(h.relu().view(len(x), -1).view(h.shape))


@ssdiff.register_degradation("{tag}-dim")
def dim(size, T, *, least=0.1):
    return LinearDegradation(size, T, lambda t: Mask(torch.full(size, least ** (t / T))))


@ssdiff.register_noise_schedule("{tag}-power")
def power(T: int, *, exponent: float = 3.0):
    return 100 * (torch.arange(1, T + 1, dtype=torch.float64) / T) ** exponent
'''
PRESET = """
extends = "{tiny}"
plugins = ["parts.py"]

[process]
noise = {{ kind = "{tag}-power", exponent = 2.5 }}

[model]
kind = "{tag}-unet"
options = {{ features = 12 }}
"""


def write(folder, tag):
    """A plugin and a preset that uses it; names are the test's own, because plugins stay in the process."""
    folder.mkdir(exist_ok=True)
    (folder / "parts.py").write_text(MINE.replace("{tag}", tag))
    (folder / "mine.toml").write_text(PRESET.format(tiny=TINY.as_posix(), tag=tag))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory, home):
    return write(tmp_path_factory.mktemp("plugin"), "life")


@pytest.fixture(scope="module")
def run(folder, shell):
    """A finished run of the preset whose network, noise and data are a plugin's."""
    done = shell("train", "--preset", "mine.toml", "--out", "run", "--device", "cpu", "--quiet", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"


def final(run):
    return checkpoints.load(checkpoints.list_steps(run / "checkpoints")[-1])


# The life of a model by the real commands, each in a process that has seen no plugin


def test_a_run_remembers_its_plugin(folder, run, shell):
    assert f'plugins = ["{folder / "parts.py"}"]' in (run / "preset.toml").read_text()
    told = shell("info", run, "--json")
    assert told.returncode == 0, told.stderr
    assert [level["resolution"] for level in json.loads(told.stdout)["levels"]] == [16, 8]
    for command in (
        ("eval", "cost", folder / "mine.toml", "--no-timing"),
        ("sample", "--ckpt", run, "-n", 2),
    ):
        out = ("--out", folder / "x.png") if command[0] == "sample" else ()
        done = shell(*command, *out, "--device", "cpu", "--json")
        assert done.returncode == 0, done.stderr


def test_a_dry_run_measures_a_network_of_a_plugin(folder, shell):
    done = shell("train", "--preset", folder / "mine.toml", "--dry-run", "--device", "cpu", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["parameters"] == sum(w.numel() for w in life_network(folder).parameters())
    assert [path["in"][0] for path in found["paths"]] == [16, 8, 8]
    assert all(path["gflops"] > 0 for path in found["paths"])


def life_network(folder):
    return ssdiff.build_model(load_preset(folder / "mine.toml"))


def test_killed_and_resumed_is_bitwise_the_same_run(folder, run):
    """Also the statistics of a BatchNorm and random numbers that a network draws by itself."""
    out = folder / "killed"
    command = [sys.executable, "-m", "ssdiff", "train", "--out", str(out), "--device", "cpu", "--quiet"]
    command += ["--resume", "auto"]
    first = subprocess.Popen([*command, "--preset", str(folder / "mine.toml")], stderr=subprocess.PIPE)
    while first.poll() is None and not (out.exists() and checkpoints.list_steps(out / "checkpoints")):
        time.sleep(0.002)
    first.send_signal(signal.SIGKILL)
    first.wait()
    steps = [path.name for path in checkpoints.list_steps(out / "checkpoints")]
    assert steps, "killed after the first checkpoint"
    subprocess.run(command, check=True)  # no --plugin, no --preset: the run knows both
    a, b = final(run), final(out)
    assert a.step == b.step == 12
    assert "stats.running_var" in a.tensors["ema"] and "stats.num_batches_tracked" in a.tensors["weights"]
    for group, values in a.tensors.items():
        assert values.keys() == b.tensors[group].keys()
        assert all(torch.equal(value, b.tensors[group][name]) for name, value in values.items()), group


def test_an_exported_model_runs_no_code_by_itself(folder, run, shell):
    model = folder / "model.safetensors"
    assert shell("export", run, "--out", model).returncode == 0
    assert str(folder).encode() not in model.read_bytes()
    image = folder / "exported.png"
    refused = shell("sample", "--ckpt", model, "-n", 2, "--out", image, "--device", "cpu")
    assert refused.returncode == 4 and not image.exists()
    assert "'life-power'" in refused.stderr
    assert "give its plugin with --plugin FILE.py" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    plugin = ("--plugin", folder / "parts.py")
    done = shell("sample", "--ckpt", model, "-n", 2, "--out", image, "--device", "cpu", *plugin)
    assert done.returncode == 0, done.stderr
    told = shell("info", model, *plugin)
    assert told.returncode == 0 and "preset mine" in told.stdout


def test_a_plugin_that_has_moved(folder, run, shell, tmp_path):
    moved = tmp_path / "elsewhere.py"
    shutil.move(folder / "parts.py", moved)
    try:
        for command in (("sample", "--ckpt", run, "--out", tmp_path / "a.png"), ("info", run)):
            refused = shell(*command)
            assert refused.returncode in (2, 4) and not (tmp_path / "a.png").exists()
            assert f"plugin {folder / 'parts.py'} is not there" in refused.stderr
            assert "--plugin FILE.py" in refused.stderr and len(refused.stderr.splitlines()) == 1
        found = shell("sample", "--ckpt", run, "-n", 1, "--out", tmp_path / "a.png", "--plugin", moved)
        assert found.returncode == 0, found.stderr
    finally:
        shutil.move(moved, folder / "parts.py")


def test_plugin_on_the_command_line_is_remembered_too(folder, shell, tmp_path):
    out = tmp_path / "run"
    options = ("--set", "model.kind=life-unet", "--set", "training.steps=2", "--plugin", "parts.py")
    done = shell("train", "--preset", TINY, *options, "--out", out, "--device", "cpu", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert load_preset(out / "preset.toml").plugins == (str(folder / "parts.py"),)


def test_degrade_by_a_plugin(folder, shell, tmp_path):
    from PIL import Image

    Image.new("RGB", (20, 12), (255, 255, 255)).save(tmp_path / "white.png")
    options = ("--op", "life-dim", "--t", 1000, "--set", "least=0.0001", "--plugin", folder / "parts.py")
    done = shell("degrade", tmp_path / "white.png", *options, "--out", tmp_path / "dim.png")
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "dim.png").getpixel((3, 3)) == (128, 128, 128)
    other = shell("degrade", tmp_path / "white.png", "--op", "life-dim", "--t", 3)
    assert other.returncode == 2 and "--plugin FILE.py" in other.stderr


def test_two_processes_train_a_network_of_a_plugin(folder, shell, tmp_path):
    out = tmp_path / "two"
    options = ("--set", "training.steps=4", "--set", "training.checkpoint_every=4")
    done = shell(
        "train", "--preset", folder / "mine.toml", "--out", out, "--device", "cpu", *options, processes=2
    )
    assert done.returncode == 0, done.stderr
    assert final(out).step == 4


def test_shown_preset_has_the_fields_that_its_network_has(folder, shell):
    done = shell("presets", "show", folder / "mine.toml")
    table = done.stdout.split("[model]")[1].split("[")[0].split("\n")
    assert [line.split(" = ")[0] for line in table if line] == ["kind", "classes", "options"]


# Files that are no plugins

BAD = {
    "syntax": ("def broken(:\n", r"bad\.py, line 1: SyntaxError: "),
    "exception": ("x = 1\ny = x / 0\n", r"bad\.py, line 2: ZeroDivisionError: division by zero"),
    "exit": ("import sys\nsys.exit(3)\n", r"bad\.py, line 2: SystemExit: 3"),
    "import": ("import no_such_package_of_mine\n", r"bad\.py, line 1: ModuleNotFoundError: No module named"),
    "bytes": ("x = '\0'\n", r"bad\.py.*(SyntaxError|ValueError)"),
    "known degradation": (
        "import ssdiff\n@ssdiff.register_degradation('blur')\ndef f(size, T):\n    pass\n",
        r"bad\.py, line \d: there is a degradation 'blur' already; choose another name",
    ),
    "known network": (
        "import ssdiff\n@ssdiff.register_model('flexi-unet')\ndef f(size):\n    pass\n",
        r"there is a network 'flexi-unet' already",
    ),
    "known noise": (
        "import ssdiff\n@ssdiff.register_noise_schedule('linear')\ndef f(T):\n    pass\n",
        r"there is a noise schedule 'linear' already",
    ),
    "degradation of one argument": (
        "import ssdiff\n@ssdiff.register_degradation('one')\ndef f(size):\n    pass\n",
        r"'one' has the signature f\(size\); write f\(size, T, \*, option=1\.0\)",
    ),
    "degradation of other names": (
        "import ssdiff\n@ssdiff.register_degradation('xy')\ndef f(x, t):\n    pass\n",
        r"'xy' has the signature f\(x, t\)",
    ),
    "any option": (
        "import ssdiff\n@ssdiff.register_degradation('any')\ndef f(size, T, **options):\n    pass\n",
        r"each option by its name",
    ),
    "network of anything": (
        "import ssdiff\n@ssdiff.register_model('many')\ndef f(*sizes):\n    pass\n",
        r"'many' has the signature f\(\*sizes\)",
    ),
    "noise without T": (
        "import ssdiff\n@ssdiff.register_noise_schedule('no-t')\ndef f(*, a=1.0):\n    pass\n",
        r"write f\(T, \*, option=1\.0\)",
    ),
    "noise with a list": (
        "import ssdiff\n@ssdiff.register_noise_schedule('list')\ndef f(T, *, a=[1]):\n    pass\n",
        r"a cannot be an option of a preset; .* float, int, bool or str",
    ),
    "a name that is none": (
        "import ssdiff\n@ssdiff.register_degradation('Bad Name')\ndef f(size, T):\n    pass\n",
        r"'Bad Name' cannot be the name of a degradation",
    ),
    "no name": (
        "import ssdiff\n@ssdiff.register_model\ndef f(size):\n    pass\n",
        r"f cannot be the name of a network",
    ),
    "no function": (
        "import ssdiff\nssdiff.register_model('seven')(7)\n",
        r"network 'seven' is no function or class but 7",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_plugin(kind, ssdiff, tmp_path):
    text, message = BAD[kind]
    (tmp_path / "bad.py").write_text(text)
    before = _names()
    out = tmp_path / "run"
    for _ in range(2):  # what failed once leaves nothing behind
        code, _, err = ssdiff("train", "--preset", TINY, "--out", out, "--plugin", tmp_path / "bad.py")
        assert code == 2 and len(err.splitlines()) == 1
        assert re.search(message, err), err
    assert not out.exists() and _names() == before


def _names():
    from ssdiff.models.registry import NETWORKS
    from ssdiff.process.degradations.registry import DEGRADATIONS
    from ssdiff.schedules.noise import NOISE_SCHEDULES

    return [registry.names() for registry in (NETWORKS, DEGRADATIONS, NOISE_SCHEDULES)]


def test_a_plugin_that_is_not_there(ssdiff, tmp_path):
    code, _, err = ssdiff(
        "train", "--preset", TINY, "--out", tmp_path / "run", "--plugin", tmp_path / "no.py"
    )
    assert code == 2 and "cannot read plugin" in err and not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match="ModuleNotFoundError"):
        plugins.load_plugin("no_such_package_of_mine.parts")


def test_a_module_is_a_plugin_by_its_name(monkeypatch, tmp_path):
    (tmp_path / "my_parts.py").write_text(
        "import ssdiff\n@ssdiff.register_degradation('by-module')\ndef f(size, T):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert ssdiff.load_plugin("my_parts") == "my_parts"
    assert "by-module" in ssdiff.degradations()


def test_a_copy_is_the_same_plugin(tmp_path):
    a = write(tmp_path / "a", "copied")
    b = write(tmp_path / "b", "copied")
    assert ssdiff.load_plugin(a / "parts.py") == ssdiff.load_plugin(b / "parts.py") == str(a / "parts.py")
    (b / "parts.py").write_text((b / "parts.py").read_text() + "\n# changed\n")
    with pytest.raises(UsageError, match=f"network 'copied-unet' already, of {a / 'parts.py'}"):
        ssdiff.load_plugin(b / "parts.py")


def test_a_preset_from_a_file_is_not_believed(tmp_path):
    (tmp_path / "evil.py").write_text("raise SystemExit('this code must not run')\n")
    text = f'name = "a"\nplugins = ["{tmp_path / "evil.py"}"]\n'
    assert parse_preset(text).plugins == ()
    with pytest.raises(UsageError, match="must not run"):
        parse_preset(text, run_plugins=True)


def test_plugins_of_a_preset_add_up(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.py").write_text(f"NAME = {name!r}\n")
    (tmp_path / "base.toml").write_text('extends = "shapes32"\nplugins = ["a.py"]\n')
    (tmp_path / "child.toml").write_text('extends = "base.toml"\nplugins = ["b.py"]\n')
    both = (str(tmp_path / "a.py"), str(tmp_path / "b.py"))
    preset = load_preset(tmp_path / "child.toml")
    assert preset.plugins == both
    assert parse_preset(preset.to_toml(), run_plugins=True) == preset
    assert override(preset, {"training.lr": 1e-3}).plugins == both
    with pytest.raises(PresetError, match="plugins: must be a list, not 3"):
        load_preset("shapes32", {"plugins": 3})


# Networks


@ssdiff.register_model("test-plain")
class Plain(nn.Module):
    """forward(x, t)."""

    def __init__(self, channels, *, taps, grow=1):
        super().__init__()
        self.conv, self.grow = nn.Conv2d(channels, channels * grow, taps, padding="same"), grow

    def forward(self, x, t):
        """The convolution."""
        return self.conv(x) + t[:, None, None, None]


TINY_PLAIN = {"model": {"kind": "test-plain", "options": {"taps": 3}, "classes": 0}}


def test_a_builder_gets_what_its_signature_names():
    preset = load_preset(TINY, TINY_PLAIN)
    model = ssdiff.build_model(preset)
    assert model.network.conv.kernel_size == (3, 3)
    assert list(model.state_dict()) == ["conv.weight", "conv.bias"]
    assert [name for name, _ in model.named_parameters()] == ["conv.weight", "conv.bias"]
    assert preset.model.width == 128, "the Flexi-UNet's fields are not inherited by another kind"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"kind": "test-plian"}, "model.kind: unknown network 'test-plian'; did you mean test-plain"),
        ({"kind": 3}, "model.kind: must be a valid string"),
        ({"kind": "test-plain"}, "model.options.taps: must be given"),
        ({"options": {"tpas": 3}}, "model.options.tpas: .* did you mean model.options.taps"),
        ({"options": {"taps": 3, "width": 4}}, "model.options.width: is no option; write it as model.width"),
        ({"width": 64}, "model.width: network 'test-plain' takes no width; leave it at 128"),
        ({"classes": 8}, "model.classes: network 'test-plain' takes no classes"),
        ({"kind": "flexi-unet", "options": {"taps": 3}}, "model.options: network 'flexi-unet' has none"),
        ({"options": {"taps": float("nan")}}, "model.options.taps"),
        ({"options": 3}, "model.options: must be a table"),
    ],
)
def test_settings_of_another_network(model, message):
    options = {} if model == {"kind": "test-plain"} else {"options": {"taps": 3}}
    wanted = {"kind": "test-plain", "classes": 0, **options, **model}
    with pytest.raises(PresetError, match=message) as caught:
        load_preset(TINY, {"model": wanted})
    assert "\n" not in str(caught.value)


def test_sizes_are_the_flexi_unets_rule():
    with pytest.raises(PresetError, match="cannot be halved"):
        load_preset(TINY, {"data.size": 17})
    preset = load_preset(TINY, TINY_PLAIN | {"data.size": 17})
    assert [state.resolution for state in build_process(preset).states][:: preset.process.T] == [17, 8]


class Labelled(Plain):
    """forward(x, t, labels)."""

    def forward(self, x, t, labels):
        """Labels are added."""
        return self.conv(x) + (0 if labels is None else labels[:, None, None, None])


class Diffusers(Plain):
    """The signature of diffusers' UNet2DModel."""

    def forward(self, sample, timestep, class_labels=None, return_dict=True):
        """An object with the result."""
        shift = 0 if class_labels is None else class_labels[:, None, None, None]
        return type("Output", (), {"sample": self.conv(sample) + shift})


class Native(Plain):
    """The call of ssdiff."""

    def forward(self, x, index, resolution, labels=None):
        """Nearest neighbours."""
        return nn.functional.interpolate(self.conv(x), (resolution, resolution))


@pytest.mark.parametrize("kind", [Plain, Labelled, Diffusers, Native])
def test_adapted_networks_are_called_alike(kind):
    network = kind(3, taps=3)
    model = adapt(network)
    assert adapt(model) is model and (model is network) == (kind is Native)
    x, t = torch.rand(2, 3, 8, 8), torch.tensor([4, 5])
    labels = None if kind in (Plain, Native) else torch.tensor([1, 2])
    assert model(x, t, 16, labels).shape == (2, 3, 16, 16)
    if kind is Labelled:
        large = nn.functional.interpolate(x, (16, 16), mode="bilinear", antialias=True)
        assert torch.equal(model(x, t, 16, labels), network(large, t, labels))
        assert torch.equal(model(x, t, 8, None), network(x, t, None))
    assert model.state_dict().keys() == network.state_dict().keys()
    again = adapt(kind(3, taps=3))
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(x, t, 8, labels), model(x, t, 8, labels))


class OneArgument(Plain):
    """No time."""

    def forward(self, x):
        """Nothing to do with t."""
        return x


class Conditioned(Plain):
    """Needs what ssdiff has not."""

    def forward(self, x, t, context):
        """Another input."""
        return x


class Anything(Plain):
    """A signature that says nothing."""

    def forward(self, *args, **kwargs):
        """Whatever."""
        return args[0]


@pytest.mark.parametrize("kind", [OneArgument, Conditioned, Anything])
def test_signatures_that_do_not_fit(kind):
    with pytest.raises(
        UsageError, match=rf"{kind.__name__}.forward\(.* is no signature .*forward\(x, t, labels\)"
    ):
        adapt(kind(3, taps=3))


def test_results_that_do_not_fit():
    x, t = torch.rand(2, 3, 8, 8), torch.tensor([4, 5])
    with pytest.raises(UsageError, match=r"Plain gives \(2, 9, 8, 8\), not \(2, 3, 8, 8\)"):
        adapt(Plain(3, taps=3, grow=3))(x, t, 8, None)  # twice as many would be a variance beside the mean
    with pytest.raises(UsageError, match="takes no labels"):
        adapt(Plain(3, taps=3))(x, t, 8, torch.tensor([0, 1]))


def test_a_network_of_the_wrong_shape_leaves_no_folder(ssdiff, tmp_path):
    settings = "model.kind=test-plain", "model.classes=0", "model.options={ taps = 3, grow = 3 }"
    sets = [part for setting in settings for part in ("--set", setting)]
    code, _, err = ssdiff("train", "--preset", TINY, *sets, "--out", tmp_path / "run", "--device", "cpu")
    assert code == 2 and "gives (2, 9, 16, 16), not (2, 3, 16, 16)" in err
    assert not (tmp_path / "run").exists()


@ssdiff.register_model("test-stubborn")
class Stubborn(Plain):
    """Cannot be made or run without numbers."""

    def __init__(self, channels):
        super().__init__(channels, taps=3)
        self.scale = float(self.conv.weight.abs().max().item())

    def forward(self, x, t):
        """A tensor on the CPU, whatever the input."""
        return super().forward(x, t) + torch.linspace(0, self.scale, x.shape[-1])


def test_costs_of_a_network_that_cannot_be_without_numbers():
    preset = load_preset(TINY, {"model": {"kind": "test-stubborn", "classes": 0}})
    before = torch.get_rng_state()
    outline = outline_model(preset)
    assert next(outline.parameters()).device.type == "cpu"
    assert torch.equal(before, torch.get_rng_state())
    costs = path_costs(outline, build_process(preset), 3)
    assert [cost.path for cost in costs] == [(16, 16), (8, 16), (8, 8)]
    assert costs[0].flops == 2 * 3 * 3 * 9 * 16 * 16


@ssdiff.register_model("test-nothing")
def nothing(channels):
    """No weights."""
    return nn.Identity()


def test_builders_that_give_no_network():
    with pytest.raises(UsageError, match="'test-nothing' gives no weights to train"):
        ssdiff.build_model(load_preset(TINY, {"model": {"kind": "test-nothing", "classes": 0}}))


# Noise schedules


@ssdiff.register_noise_schedule("test-curve")
def curve(T: int, *, shape: str = "up", scale: float, turn: bool = False):
    """Curves that are and are not schedules."""
    rise = torch.arange(1, T + 1, dtype=torch.float32) * scale
    return {
        "up": lambda: rise,
        "down": lambda: rise.flip(0),
        "flat": lambda: torch.ones(T),
        "short": lambda: rise[1:],
        "nan": lambda: rise * float("nan"),
        "below": lambda: rise - 1,
        "list": lambda: rise.tolist(),
    }[shape]()


def test_an_own_schedule_is_the_process():
    preset = load_preset(
        TINY, {"process.noise": {"kind": "test-curve", "scale": 2}, "process.snr_preserving": 0.0}
    )
    states = build_process(preset).states
    assert [state.sigma / state.signal for state in states[1:4]] == pytest.approx([2, 4, 6])
    assert parse_preset(preset.to_toml()) == preset
    assert preset.process.noise.options == {"shape": "up", "scale": 2.0, "turn": False}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "process.noise.scale: must be given"),
        ({"scale": "much"}, "process.noise.scale: must be a finite number, not 'much'"),
        ({"scale": float("inf")}, "process.noise.scale: must be a finite number, not inf"),
        ({"scale": 1.0, "turn": 1}, "process.noise.turn: must be"),
        (
            {"scale": 1.0, "shpae": "up"},
            "process.noise.shpae: unknown field; did you mean process.noise.shape",
        ),
        ({"kind": "test-cruve"}, "process.noise.kind: must be .*did you mean 'test-curve'"),
    ],
)
def test_options_of_an_own_schedule(options, message):
    with pytest.raises(PresetError, match=message):
        load_preset(TINY, {"process.noise": {"kind": "test-curve", **options}})


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("down", "'test-curve' does not increase at t = 2"),
        ("flat", "'test-curve' does not increase at t = 2"),
        ("short", r"gives a tensor \(19,\), not a tensor \(20,\)"),
        ("nan", "is not finite at t = 1"),
        ("below", "is not positive at t = 1"),
        ("list", "gives list, not a tensor"),
    ],
)
def test_schedules_that_are_none(shape, message):
    preset = load_preset(TINY, {"process.noise": {"kind": "test-curve", "scale": 1.0, "shape": shape}})
    with pytest.raises(PresetError, match=f"process.noise: .*{message}"):
        build_process(preset)


def test_built_in_schedules_are_unchanged():
    assert float(build_noise("linear", 1000, {})[0]) == pytest.approx((1e-4 / (1 - 1e-4)) ** 0.5)


# Degradations


@ssdiff.register_degradation("test-wrong")
def wrong(size, T):
    """No degradation."""
    return "blur"


def test_degradations_that_are_none():
    from ssdiff.process.degradations.registry import build_degradation

    with pytest.raises(SsdiffError, match="test-wrong gives str, which has no size and no T and no degrade"):
        build_degradation("test-wrong", (4, 4))


def test_errors_in_a_plugin_name_its_line(ssdiff, tmp_path):
    (tmp_path / "fails.py").write_text(
        "import ssdiff\n@ssdiff.register_degradation('fails')\ndef f(size, T):\n    return {}['nothing']\n"
    )
    code, _, err = ssdiff("degrade", "x.png", "--op", "fails", "--t", 3, "--plugin", tmp_path / "fails.py")
    assert code == 2 and f"plugin {tmp_path / 'fails.py'}, line 4: KeyError: 'nothing'" in err


@pytest.mark.parametrize(
    "command",
    [
        *(["train"], ["sample"], ["degrade"], ["restore"], ["info"], ["export"], ["import"]),
        *(["presets", "show"], ["eval", "cost"], ["eval", "fid"], ["eval", "restore"], ["eval", "schedule"]),
        *(["eval", "scale-space"], ["eval", "report"]),
    ],
    ids=" ".join,
)
def test_help_says_that_code_runs(command, ssdiff, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = ssdiff(*command, "--help")
    assert code == 0 and "--plugin" in out and "Runs the file's code" in out
