"""What `check` and `doctor` say of one part."""

from __future__ import annotations

from typing import Literal

import msgspec

Level = Literal["ok", "warning", "error"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One observation of one part, with the mend where it is not ok."""

    level: Level
    part: str
    message: str
    mend: str = ""
