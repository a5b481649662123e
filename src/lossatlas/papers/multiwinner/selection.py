"""Committees with and without quotas, eq. 3: exact for separable scores, greedy for others, integer programs."""

import heapq

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike

from lossatlas.papers.multiwinner.scores import Score, check_positions, order_of, position_table


def make_quotas(second: Bool[np.ndarray, " m"], k: int, kind: str | int = "proportional") -> tuple[int, int]:
    """Least numbers of seats for G_1 and G_2.

    Args:
        second: which items are in G_2.
        k: size of the committee, 1 to m.
        kind: proportional (floor(k |G_j| / m)), equal (floor(k / 2), at most the group), none, or the number of seats
            for G_2 alone.

    Raises:
        ValueError: another kind, k out of range, or more seats than G_2 has items.

    Example:
        >>> make_quotas(np.array([False, False, True, True, True]), 3)
        (1, 1)
    """
    second = np.asarray(second, bool)
    m = len(second)
    sizes = (m - int(second.sum()), int(second.sum()))
    if not 1 <= k <= m:
        raise ValueError(f"a committee has 1 to {m} of the items, got k={k}")
    if kind == "none":
        return (0, 0)
    if kind == "proportional":
        return (k * sizes[0] // m, k * sizes[1] // m)
    if kind == "equal":
        return (min(k // 2, sizes[0]), min(k // 2, sizes[1]))
    if isinstance(kind, int) and not isinstance(kind, bool):
        if not 0 <= kind <= min(k, sizes[1]):
            raise ValueError(
                f"G_2 can have 0 to {min(k, sizes[1])} seats (k={k}, {sizes[1]} items), got {kind}"
            )
        return (0, kind)
    raise ValueError(f"quotas are proportional, equal, none or a number of seats for G_2, got {kind!r}")


def select_top(
    scores: Float[np.ndarray, "*R m"],
    k: int,
    tie: Float[np.ndarray, "*R m"],
    second: Bool[np.ndarray, "*R m"] | None = None,
    quotas: tuple[int, int] = (0, 0),
) -> Int[np.ndarray, "*R k"]:
    """The k best items of each row, or the best committee that keeps the quotas; exact for separable scores.

    Args:
        scores: of the items. tie: random numbers, larger first among equal scores.
        second: which items are in G_2, needed with quotas.
        quotas: least seats of G_1 and G_2.

    Example:
        >>> second = np.array([False, False, False, True, True])
        >>> select_top(np.array([5.0, 4.0, 3.0, 1.0, 2.0]), 3, np.zeros(5), second, (1, 1))
        array([0, 4, 1])
    """
    reserved = np.zeros(scores.shape, bool)
    if any(quotas):
        assert second is not None
        for quota, group in zip(quotas, (~second, second), strict=True):
            ahead = np.lexsort((-tie, -scores, ~group), axis=-1)[..., :quota]  # of the group, best first
            np.put_along_axis(reserved, ahead, True, axis=-1)
    return np.lexsort((-tie, -scores, ~reserved), axis=-1)[..., :k]


def greedy(
    values: Float[np.ndarray, "R n m"],
    k: int,
    tie: Float[np.ndarray, "R m"],
    second: Bool[np.ndarray, "R m"] | None = None,
    quotas: tuple[int, int] = (0, 0),
) -> Int[np.ndarray, "R k"]:
    """Greedy maximisation of sum_l max_{i in S} values[l, i], for all R problems side by side.

    G_j gets at most k less the other quota, so that every quota can still be met.

    Args:
        values: mark of each item in each ranking, >= 0.
        tie: random numbers, the largest wins among equal gains.
        second, quotas: as for `select_top`.
    """
    R, n, m = values.shape
    rows = np.arange(R)
    best, chosen = np.zeros((R, n, 1)), np.zeros((R, m), bool)
    groups = np.zeros((R, m), int) if second is None else second.astype(int)
    caps = np.array([k - quotas[1], k - quotas[0]])
    seats, picks = np.zeros((R, 2), int), []
    for _ in range(k):
        gain = np.maximum(values - best, 0.0).sum(axis=1)
        gain[chosen | (np.take_along_axis(seats, groups, 1) >= caps[groups])] = -1.0
        pick = np.where(gain == gain.max(axis=1, keepdims=True), tie, -np.inf).argmax(axis=1)
        chosen[rows, pick] = True
        seats[rows, groups[rows, pick]] += 1
        best = np.maximum(best, values[rows, :, pick][:, :, None])
        picks.append(pick)
    return np.stack(picks, axis=1)


def lazy_greedy(
    values: Float[np.ndarray, "n m"],
    k: int,
    tie: Float[np.ndarray, " m"],
    second: Bool[np.ndarray, " m"] | None = None,
    quotas: tuple[int, int] = (0, 0),
) -> Int[np.ndarray, " k"]:
    """`greedy` for one problem, where a gain is taken anew only while its old value leads: gains can but fall."""
    group = np.zeros(values.shape[1], int) if second is None else np.asarray(second, int)
    caps, seats = [k - quotas[1], k - quotas[0]], [0, 0]
    best = np.zeros(len(values))
    heap = [(-float(values[:, i].sum()), -float(tie[i]), i, 0) for i in range(values.shape[1])]
    heapq.heapify(heap)
    chosen: list[int] = []
    while len(chosen) < k:
        gain, order, i, at = heapq.heappop(heap)
        if seats[group[i]] >= caps[group[i]]:
            continue
        if at < len(chosen):
            gain = -float(np.maximum(values[:, i] - best, 0.0).sum())
            heapq.heappush(heap, (gain, order, i, len(chosen)))
            continue
        chosen.append(i)
        seats[group[i]] += 1
        best = np.maximum(best, values[:, i])
    return np.array(chosen)


def optimum(
    positions: Int[np.ndarray, "n m"],
    score: Score,
    k: int,
    second: Bool[np.ndarray, " m"] | None = None,
    quotas: tuple[int, int] = (0, 0),
) -> tuple[Int[np.ndarray, " k"], float]:
    """A best committee and F of it, by scipy's integer programming; for small n and m.

    x_i says whether i is in S; for Chamberlin-Courant y_li <= x_i says which item serves ranking l.

    Raises:
        ValueError: positions are no rankings, or no committee keeps the quotas.
    """
    from scipy import sparse
    from scipy.optimize import Bounds, LinearConstraint, milp

    positions = check_positions(positions, len(score.marks))
    n, m = positions.shape
    marks = score.marks[positions]
    served = n if score.best_only else 0
    cost = -np.concatenate([np.zeros(m) if served else marks.sum(0), marks[:served].ravel()])
    rows = [(np.ones(m), k, k)]
    if second is not None:
        rows += [(~second * 1.0, quotas[0], k), (second * 1.0, quotas[1], k)]
    rules = [
        LinearConstraint(np.concatenate([a, np.zeros(served * m)])[None], low, high) for a, low, high in rows
    ]
    if served:
        one = sparse.hstack([sparse.csr_array((n, m)), sparse.kron(sparse.eye(n), np.ones((1, m)))])
        below = sparse.hstack([-sparse.vstack([sparse.eye(m)] * n), sparse.eye(n * m)])
        rules += [LinearConstraint(one.tocsr(), 1, 1), LinearConstraint(below.tocsr(), -np.inf, 0)]
    found = milp(cost, constraints=rules, bounds=Bounds(0, 1), integrality=np.arange(len(cost)) < m)
    if found.x is None:
        raise ValueError(f"no committee of {k} keeps the quotas {quotas}")
    S = np.flatnonzero(found.x[:m] > 0.5)
    return S, score.value(positions, S.tolist())


def select(
    positions: ArrayLike,
    score: Score,
    k: int,
    second: ArrayLike | None = None,
    quotas: str | int = "proportional",
    seed: int = 0,
) -> Int[np.ndarray, " k"]:
    """A committee from rankings: the best one for a separable score, greedy's for Chamberlin-Courant.

    Args:
        positions: (n, m), place of each item in each ranking, 0 = best.
        score: of `make_score` for m items.
        k: size of the committee.
        second: (m,) which items are in G_2; None: no quotas.
        quotas: of `make_quotas`.
        seed: of the order among equal scores.

    Raises:
        ValueError: no rankings, or k, second or quotas that do not fit.

    Example:
        >>> from lossatlas.papers.multiwinner import make_score, positions_of
        >>> positions = positions_of([[0.9, 0.8, 0.3, 0.2], [0.7, 0.9, 0.2, 0.3], [0.9, 0.8, 0.4, 0.1]])
        >>> borda = make_score("borda", m=4, k=2)
        >>> select(positions, borda, 2).tolist(), select(positions, borda, 2, second=[0, 0, 1, 1]).tolist()
        ([0, 1], [0, 2])
    """
    positions = check_positions(positions, len(score.marks))
    m = positions.shape[1]
    groups = np.zeros(m, bool) if second is None else np.asarray(second).astype(bool)
    if groups.shape != (m,):
        raise ValueError(
            f"second says for each of the {m} items whether it is in G_2, got shape {groups.shape}"
        )
    seats = make_quotas(groups, k, "none" if second is None else quotas)
    tie = np.random.default_rng(seed).random(m)
    if score.best_only:
        S = greedy(score.marks[positions][None], k, tie[None], groups[None], seats)[0]
    else:
        S = select_top(score.item_scores(position_table(order_of(-positions))), k, tie, groups, seats)
    return np.sort(S)
