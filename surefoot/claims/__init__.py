"""One executable claim a system; `claim(slug)` finds it, and imports it only then."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from surefoot import catalog
from surefoot.errors import ConfigError

if TYPE_CHECKING:
    from surefoot.claims.base import Claim


def claim(slug: str) -> Claim:
    """The claim of a system.

    Raises UnknownNameError for a slug that is not in the catalog, and ConfigError for a system that is planned or has no claim.
    """
    row = catalog.require_ready(catalog.find(slug))
    if not row.claim:
        known = ", ".join(row.slug for row in catalog.ROWS if row.claim and row.status == "ready")
        raise ConfigError(f"{slug} is a baseline and has no claim of its own; claims to reproduce: {known}.")
    return import_module(f"surefoot.claims.{row.module_name}").CLAIM
