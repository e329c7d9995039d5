"""The base of all settings."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

MOST = 2**31 - 1
"""The largest count in a preset; the product of two fits 64 bits."""
Positive = Annotated[int, Field(ge=1, le=MOST, strict=True)]


class Strict(BaseModel):
    """Base of all settings: immutable, no unknown field, no silent conversion, finite numbers only."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True
    )
