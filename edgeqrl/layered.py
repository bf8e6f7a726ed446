"""Where the nodes of a directed graph go in a picture: in ranks from top to bottom, few edges crossing.

    drawing = lay_out([(120, 40), (90, 40)], [(0, 1)], gap=(24, 40))

The usual four steps: ranks by longest path, a waypoint where an edge passes a rank, order in each rank by
barycentres, places by least squares that keep the order.
"""

from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

Point = tuple[float, float]

_SWEEPS = 12
_WAYPOINT_WIDTH = 8.0
_MAX_WAYPOINTS = 4000
_PLACING_SWEEPS, _PLACINGS = (8, 100), 50_000  # sweeps at least and at most, and how many items they place
_PULLS = (1.0, 3.0, 12.0)  # of a link with no, one or two waypoints at its ends: long edges are straight


@dataclass(frozen=True)
class Drawing:
    """Places in a plane of `width` by `height`, x to the right and y down."""

    places: tuple[Point, ...]  # of each node: the middle of its upper edge
    bends: tuple[tuple[Point, ...], ...]  # of each edge: where it passes the ranks between its ends
    width: float
    height: float


def lay_out(
    sizes: Sequence[Point], edges: Sequence[tuple[int, int]], *, gap: Point = (24.0, 40.0)
) -> Drawing:
    """Place nodes of these sizes; edges lead from (node, to node) without a circle."""
    ranks = _ranks(len(sizes), edges)
    items, chains = _with_waypoints(ranks, edges)
    widths = [size[0] for size in sizes] + [_WAYPOINT_WIDTH] * (len(items) - len(sizes))
    links = [(a, b) for chain in chains for a, b in pairwise(chain) if items[b] - items[a] == 1]
    rows = _ordered(items, links)
    x = _columns(rows, links, widths, gap[0], len(sizes))
    heights = [max((sizes[i][1] for i in row if i < len(sizes)), default=0.0) for row in rows]
    tops = [sum(heights[:r]) + gap[1] * r for r in range(len(rows))]
    left = min((x[i] - widths[i] / 2 for i in range(len(items))), default=0.0)
    right = max((x[i] + widths[i] / 2 for i in range(len(items))), default=0.0)
    return Drawing(
        places=tuple((x[i] - left, tops[items[i]]) for i in range(len(sizes))),
        bends=tuple(
            tuple(
                point
                for i in chain[1:-1]
                for point in (
                    (x[i] - left, tops[items[i]]),
                    (x[i] - left, tops[items[i]] + heights[items[i]]),
                )
            )
            for chain in chains
        ),
        width=right - left,
        height=(tops[-1] + heights[-1]) if rows else 0.0,
    )


def _ranks(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """Return the longest way to each node; a node that nothing leads to stands right above its reader."""
    after: list[list[int]] = [[] for _ in range(count)]
    missing = [0] * count
    for source, target in edges:
        after[source].append(target)
        missing[target] += 1
    roots = [node for node in range(count) if missing[node] == 0]
    ranks, ready = [0] * count, list(roots)
    for node in ready:
        for target in after[node]:
            ranks[target] = max(ranks[target], ranks[node] + 1)
            missing[target] -= 1
            if missing[target] == 0:
                ready.append(target)
    if len(ready) != count:
        raise ValueError("the graph has a circle")
    for node in roots:
        ranks[node] = min((ranks[target] - 1 for target in after[node]), default=0)
    return ranks


def _with_waypoints(
    ranks: list[int], edges: Sequence[tuple[int, int]]
) -> tuple[list[int], list[tuple[int, ...]]]:
    """Return the rank of each node and waypoint, and each edge as a chain of them, rank by rank.

    In a hopeless tangle long edges have none, and pass behind what lies between.
    """
    items, chains = list(ranks), []
    is_tangle = sum(ranks[target] - ranks[source] - 1 for source, target in edges) > _MAX_WAYPOINTS
    for source, target in edges:
        between = range(0) if is_tangle else range(ranks[source] + 1, ranks[target])
        first = len(items)
        items += between
        chains.append((source, *range(first, first + len(between)), target))
    return items, chains


def _ordered(items: list[int], links: list[tuple[int, int]]) -> list[list[int]]:
    """Return the items of each rank from left to right: the best order that the sweeps meet."""
    rows: list[list[int]] = [[] for _ in range(max(items, default=-1) + 1)]
    above, below = _neighbours(len(items), links)
    for item, rank in enumerate(items):
        rows[rank].append(item)
    best, fewest = rows, _crossings(rows, below)
    for sweep in range(_SWEEPS):
        rows = [list(row) for row in rows]
        is_down = sweep % 2 == 0
        near = above if is_down else below
        order = range(1, len(rows)) if is_down else range(len(rows) - 2, -1, -1)
        for r in order:
            place = {item: i for i, item in enumerate(rows[r - 1 if is_down else r + 1])}
            keyed = [
                (sum(place[n] for n in near[item]) / len(near[item]) if near[item] else float(i), i, item)
                for i, item in enumerate(rows[r])
            ]
            rows[r] = [item for _, _, item in sorted(keyed)]
        crossings = _crossings(rows, below)
        if crossings < fewest:
            best, fewest = rows, crossings
    return best


def _crossings(rows: list[list[int]], below: list[list[int]]) -> int:
    count = 0
    for upper, lower in pairwise(rows):
        place = {item: i for i, item in enumerate(lower)}
        seen: list[int] = []
        for item in upper:
            ends = sorted(place[n] for n in below[item])
            count += sum(len(seen) - bisect_right(seen, end) for end in ends)
            for end in ends:
                insort(seen, end)
    return count


def _columns(
    rows: list[list[int]], links: list[tuple[int, int]], widths: list[float], gap: float, num_nodes: int
) -> list[float]:
    """Return the middle of each item: near the mean of its neighbours, in the row's order."""
    near: list[list[tuple[int, float]]] = [[] for _ in widths]
    for link in links:
        pull = _PULLS[sum(end >= num_nodes for end in link)]
        for item, other in (link, link[::-1]):
            near[item].append((other, pull))
    pulls = [sum(pull for _, pull in others) for others in near]
    x = [0.0] * len(widths)
    fewest, most = _PLACING_SWEEPS
    sweeps = min(max(_PLACINGS // max(len(widths), 1), fewest), most)
    for sweep in range(sweeps):
        for row in reversed(rows) if sweep % 2 else rows:
            wanted = [
                sum(x[other] * pull for other, pull in near[i]) / pulls[i] if near[i] else x[i] for i in row
            ]
            places = _spread(wanted, row, widths, gap, [pulls[i] or 1.0 for i in row])
            for item, place in zip(row, places, strict=True):
                x[item] = place
    return x


def _spread(
    wanted: list[float], row: list[int], widths: list[float], gap: float, weights: list[float]
) -> list[float]:
    """Return the places nearest to `wanted`, by squares, where neighbours in the row keep their distance."""
    distances = ((widths[a] + widths[b]) / 2 + gap for a, b in pairwise(row))
    offsets = list(accumulate(distances, initial=0.0))
    pools: list[tuple[float, float, int]] = []  # mean, weight, members: pool adjacent violators
    for value, offset, weight in zip(wanted, offsets, weights, strict=True):
        mean, total, members = value - offset, weight, 1
        while pools and pools[-1][0] >= mean:
            other, its_total, its_members = pools.pop()
            mean = (mean * total + other * its_total) / (total + its_total)
            total, members = total + its_total, members + its_members
        pools.append((mean, total, members))
    means = [mean for mean, _, members in pools for _ in range(members)]
    return [mean + offset for mean, offset in zip(means, offsets, strict=True)]


def _neighbours(count: int, links: list[tuple[int, int]]) -> tuple[list[list[int]], list[list[int]]]:
    above: list[list[int]] = [[] for _ in range(count)]
    below: list[list[int]] = [[] for _ in range(count)]
    for source, target in links:
        below[source].append(target)
        above[target].append(source)
    return above, below
