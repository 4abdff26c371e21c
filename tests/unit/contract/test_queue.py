"""The line for a device: order, sharing, and tickets of the dead."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from engine.contract.queue import Ticket, device_lock, held, open_locks, state_folder, take_all


def close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def test_device_locks_lie_in_the_users_state_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert device_lock("cpu") == state_folder() / "device-cpu.lock"
    monkeypatch.delenv("TUNEBOARD_STATE")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert state_folder() == tmp_path / "tuneboard" / platform.node()
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert state_folder() == tmp_path / "home" / ".local" / "state" / "tuneboard" / platform.node()


def test_tickets_are_served_in_the_order_of_their_times_whatever_the_order_of_drawing() -> None:
    third, first, second = (Ticket.draw("cpu", time) for time in (30, 9, 20))
    assert [ticket.is_first() for ticket in (first, second, third)] == [True, False, False]
    first.give_back()
    assert [ticket.is_first() for ticket in (second, third)] == [True, False]
    second.give_back()
    assert third.is_first()
    third.give_back()
    assert list((state_folder() / "device-cpu.queue").iterdir()) == []


def test_a_dead_ticket_is_removed_by_the_next_in_line() -> None:
    dead, waiting = Ticket.draw("cpu", 1), Ticket.draw("cpu", 2)
    assert not waiting.is_first()
    close(dead.descriptor)  # as the kernel does when its owner dies
    assert waiting.is_first() and not dead.path.exists()


def test_a_ticket_that_was_removed_by_hand_does_not_wait_for_ever() -> None:
    ticket = Ticket.draw("cpu", 5)
    ticket.path.unlink()
    assert ticket.is_first()


def test_a_ticket_is_held_before_it_can_be_seen() -> None:
    ticket = Ticket.draw("cpu", 5)
    assert held(ticket.path)
    assert [entry.name for entry in ticket.path.parent.iterdir()] == [ticket.path.name]


def test_devices_have_lines_of_their_own() -> None:
    assert Ticket.draw("cpu", 1).is_first() and Ticket.draw("cuda-0", 2).is_first()


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [(False, False, False), (False, True, False), (True, False, False), (True, True, True)],
)
def test_a_device_is_shared_by_those_who_share_and_by_nobody_else(first: bool, second: bool, together: bool) -> None:
    one, two = open_locks(["cpu"]), open_locks(["cpu"])
    assert take_all(one, share=first)
    assert take_all(two, share=second) is together
    close(*one)
    assert take_all(two, share=second)


def test_a_run_that_waits_for_one_device_holds_no_other() -> None:
    busy = open_locks(["b"])
    assert take_all(busy, share=False)
    both, other = open_locks(["a", "b"]), open_locks(["a"])
    assert not take_all(both, share=False)
    assert take_all(other, share=False)
    close(*busy, *other)
    assert take_all(both, share=False)


def test_a_lock_is_free_only_when_everyone_who_inherited_it_is_gone() -> None:
    [lock] = open_locks(["cpu"])
    assert take_all([lock], share=False)
    heir = os.dup(lock)
    os.close(lock)
    assert held(device_lock("cpu"))
    os.close(heir)
    assert not held(device_lock("cpu"))


def test_a_lock_that_does_not_exist_is_free(tmp_path: Path) -> None:
    assert not held(tmp_path / "nothing")
