"""Load balancing: which items another process server of their site should have, and when a site needs one more.

A suggestion never makes anything worse: an item leaves a server that is in trouble for one that is well, stays well by
what is known, and then carries clearly less than the giver did. Each move so lessens the sum of the squares of all
loads, whatever becomes of the servers' health meanwhile: no sequence of moves comes back to where it began.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from homeport.domain.churn import DAY_LIMIT, Rates
from homeport.domain.process_servers import Grade, Vitals, gone, judge
from homeport.domain.units import DAY

MOST_CHURN = DAY_LIMIT / DAY
"""Bytes per second of all that one process server replicates (reference 1.5: 2 TB a day)."""
MOST_ITEMS = 225
"""Reference 1.5."""
TARGET = 0.70
"""Of processors and memory: what who takes more on stays within (reference 1.4)."""
MARGIN = 0.9
"""Who takes an item has then at most this much of what the giver had: churn is never measured twice the same."""


@dataclass(frozen=True)
class Move:
    """``homeport process-server switch ITEM --to TO``. ``why``: what is wrong with ``source``; ``source_load`` and
    ``to_load``: before and after it, see :func:`load`."""

    item: str
    source: str
    to: str
    why: str
    source_load: tuple[float, float]
    to_load: tuple[float, float]


@dataclass(frozen=True)
class Advice:
    """``add``: why the site needs another process server, for each that is in trouble and can give nothing away."""

    moves: tuple[Move, ...] = ()
    add: tuple[str, ...] = ()


def load(items: Iterable[Rates]) -> float:
    """Of what a process server can do by its documented limits: 1 at :data:`MOST_CHURN`, or with :data:`MOST_ITEMS`
    that change nothing."""
    return sum(_weight(rates) for rates in items)


def _weight(rates: Rates) -> float:
    return rates.hour / MOST_CHURN + 1 / MOST_ITEMS


def trouble(server: Vitals) -> list[str]:
    """Why it should have less to do, in words; empty: it should not."""
    grade, why = judge(server)
    found = list(why) if grade is not Grade.HEALTHY else []
    day = sum(rates.day for rates in server.items.values()) * DAY
    if day > DAY_LIMIT:
        found.append(f"its machines change {day / 1e12:.1f} TB a day, more than {DAY_LIMIT / 1e12:.0f} TB")
    if len(server.items) > MOST_ITEMS:
        found.append(f"it replicates {len(server.items)} machines, more than {MOST_ITEMS}")
    return found


def advise(servers: Sequence[Vitals], bound: Collection[str] = ()) -> Advice:
    """``bound``: items that can't be given to another one now. All ``servers`` are of one site."""
    moves = _moves(servers, bound)
    left = expected(servers, moves)
    givers = {move.source for move in moves}
    spare = Vitals("", silence=0.0, cpu=0.0, memory=0.0)
    add = []
    for server in left:
        why = trouble(server)
        if why and (gone(server) or server.name not in givers) and _moves([server, spare], bound):
            add.append(f"{server.name}: {'; '.join(why)}; no other process server of the site has room")
    return Advice(tuple(moves), tuple(add))


def expected(servers: Sequence[Vitals], moves: Iterable[Move]) -> list[Vitals]:
    """The servers after the moves, by what is known before: how busy one is goes with its load."""
    fleet = {server.name: server for server in servers}
    for move in moves:
        fleet[move.source], fleet[move.to] = _moved(fleet[move.source], fleet[move.to], move.item)
    return [fleet[server.name] for server in servers]


def _moved(giver: Vitals, taker: Vitals, item: str) -> tuple[Vitals, Vitals]:
    rates = giver.items[item]
    share = _weight(rates) / load(giver.items.values())
    left = {name: each for name, each in giver.items.items() if name != item}
    busy = (giver.cpu, giver.memory) if not gone(giver) else (None, None)  # who knows how busy that one was
    (cpu, more_cpu), (memory, more_memory) = (_shared(each, share) for each in busy)
    return (
        replace(giver, items=left, cpu=cpu, memory=memory),
        replace(
            taker,
            items={**taker.items, item: rates},
            cpu=None if taker.cpu is None else taker.cpu + more_cpu,
            memory=None if taker.memory is None else taker.memory + more_memory,
        ),
    )


def _shared(busy: float | None, share: float) -> tuple[float | None, float]:
    """What is left, and what goes with the item."""
    return (None, 0.0) if busy is None else (busy * (1 - share), busy * share)


def _moves(servers: Sequence[Vitals], bound: Collection[str]) -> list[Move]:
    fleet = {server.name: server for server in servers}
    troubles = {name: trouble(server) for name, server in fleet.items()}
    takers = [name for name, why in troubles.items() if not why]
    moves: list[Move] = []
    # First what nobody replicates now; then the busiest.
    givers = sorted(troubles.keys() - set(takers), key=lambda name: (not gone(fleet[name]), -_load(fleet[name]), name))
    for giver in givers:
        items = fleet[giver].items
        for item in sorted(items.keys() - set(bound), key=lambda item: (-_weight(items[item]), item)):
            if not trouble(fleet[giver]):
                break
            before = fleet[giver]
            fits = [_moved(before, fleet[name], item) for name in takers]
            fits = [(left, taken) for left, taken in fits if _takes(taken, before)]
            if not fits:
                continue
            left, taken = min(fits, key=lambda fit: (_load(fit[1]), fit[1].name))
            was = fleet[taken.name]
            moves.append(
                Move(
                    item,
                    giver,
                    taken.name,
                    "; ".join(troubles[giver]),
                    (_load(before), _load(left)),
                    (_load(was), _load(taken)),
                )
            )
            fleet[giver], fleet[taken.name] = left, taken
    return moves


def _load(server: Vitals) -> float:
    return load(server.items.values())


def _takes(after: Vitals, giver: Vitals) -> bool:
    """``after``: a server as it would be with one more; ``giver``: as it is."""
    busy = [share for share in (after.cpu, after.memory) if share is not None]
    return (
        not trouble(after)
        and all(share <= TARGET for share in busy)
        and sum(rates.hour for rates in after.items.values()) <= MOST_CHURN
        and (gone(giver) or _load(after) <= MARGIN * _load(giver))
    )
