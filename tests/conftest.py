"""Shared fixtures."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data sets (MovieLens, PAHF); tests that need it skip where it is absent."""
    default = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
    folder = Path(os.environ.get("PERSONAAGENT_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no data folder at {folder}; set PERSONAAGENT_DATA")
    return folder
