"""`ssdiff doctor`."""

from __future__ import annotations

import typer

from ssdiff.cli.common import Terminal
from ssdiff.cli.options import Json

_BROKEN = 6


def doctor(json: Json = False) -> None:
    """Check the installation, devices and folders; exits with 6 when something needed is broken."""
    from ssdiff.installation import check_installation

    found = check_installation()
    Terminal(as_json=json).result(str(found), found.to_dict())
    if found.problems:
        raise typer.Exit(_BROKEN)
