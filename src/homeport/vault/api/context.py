"""What every route is given."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from homeport.vault.core import Core


def _core(request: Request) -> Core:
    core: Core = request.app.state.core
    return core


TheCore = Annotated[Core, Depends(_core)]
