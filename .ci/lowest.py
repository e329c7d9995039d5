"""Print the lowest versions that pyproject.toml allows as constraints for pip, one a line."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
requirements = [*project["dependencies"], *project["optional-dependencies"]["test"]]
for requirement in requirements:
    bound = re.fullmatch(r"([A-Za-z0-9._-]+)>=([0-9][0-9.]*)", requirement)
    if bound is None:
        raise SystemExit(f"{requirement}: give each dependency one lower bound, NAME>=VERSION")
    name, version = bound.groups()
    print(f"{name}=={version}{'.0' * (2 - version.count('.'))}")
