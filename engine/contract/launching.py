"""On how many devices, and by which way of sharing the work among them."""

from __future__ import annotations

from typing import ClassVar

from engine.contract.fields import Section


class Launch(Section):
    """On how many devices and machines a run trains, and what each of them holds."""

    title: ClassVar[str] = "Devices and machines"
