"""What `ssdiff.NAME` offers: one list, everything in it loads and says what it does."""

import ast
import inspect
from pathlib import Path

import pytest
from test_structure import VERBS

import ssdiff

# Of the plan; a name that is missing from the list itself would be missed by nobody.
PROMISED = """
train degrade restore evaluate evaluate_restoration cost plan_schedule scale_space report presets samplers
degradations load load_preset load_plugin build_process build_model import_official Pipeline
register_degradation register_model register_sampler register_noise_schedule register_prediction
TrainResult RestoreResult Evaluation RestorationEvaluation Cost SchedulePlan ScaleSpace
"""


def test_one_list():
    assert ssdiff.__all__ == sorted([*ssdiff._MODULES, "__version__"])
    assert list(ssdiff._MODULES) == sorted(PROMISED.split())
    tree = ast.parse(Path(ssdiff.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {f"{line.module}.{alias.asname}" for line in block.body for alias in line.names}
    assert typed == {f"{module}.{name}" for name, module in ssdiff._MODULES.items()}


@pytest.mark.parametrize("name", ssdiff._MODULES)
def test_a_name_loads_and_says_what_it_does(name):
    value = getattr(ssdiff, name)
    assert value.__module__ == ssdiff._MODULES[name], "the table names the module that defines it"
    words = (inspect.getdoc(value) or "").split()
    assert words and (inspect.isclass(value) or words[0] in VERBS)
