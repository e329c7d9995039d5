"""Importing what is large."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import without a search for garbage, which modules do not leave and which is a tenth of the time that
    importing PyTorch takes; nor do later searches look at what PyTorch's import has made."""
    searching, new = gc.isenabled(), "torch" not in sys.modules
    gc.disable()
    try:
        yield
    finally:
        if new and "torch" in sys.modules:  # once: whatever else is alive then is never freed as garbage
            gc.freeze()
        if searching:
            gc.enable()
