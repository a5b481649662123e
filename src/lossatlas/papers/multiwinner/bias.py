"""Latent preferences and a group rated too low in them: utilities made smaller, or neighbours exchanged, eq. 2."""

import numpy as np
from jaxtyping import Bool, Float, Int

FLOOR = 1e-6


def draw_qualities(
    rng: np.random.Generator, m: int, independent: bool = False
) -> tuple[Float[np.ndarray, " m"], Bool[np.ndarray, " m"]]:
    """Qualities w and membership in G_2, half of the items, at random places.

    Args:
        m: items, even and >= 2.
        independent: draw G_2's qualities anew; by default they are those of G_1 in another order, so that the groups
            are alike and a quota costs nothing where nothing is biased.

    Raises:
        ValueError: m is odd or below 2.
    """
    if m < 2 or m % 2:
        raise ValueError(f"two groups of equal size need an even number of items m >= 2, got {m=}")
    half = m // 2
    first = rng.random(half)
    w = np.concatenate([first, rng.random(half) if independent else rng.permutation(first)])
    place = rng.permutation(m)
    return w[place], place >= half


def utilities(w: Float[np.ndarray, "*#R m"], e: Float[np.ndarray, "*#R n m"]) -> Float[np.ndarray, "*#R n m"]:
    """U = max(w + .3 e, 1e-6); what lies below the floor keeps its order there, as 1e-6 exp(w + .3 e).

    Example:
        >>> utilities(np.array([0.5, 0.1]), np.array([[1.0, -1.0]])).round(7)
        array([[8.e-01, 8.e-07]])
    """
    U = w[..., None, :].astype(e.dtype) + e.dtype.type(0.3) * e
    low = U < FLOOR
    U[low] = FLOOR * np.exp(U[low] - FLOOR)
    return U


def weigh(
    U: Float[np.ndarray, "*#R n m"], second: Bool[np.ndarray, "*#R m"], theta: float
) -> Float[np.ndarray, "*#R n m"]:
    """Utilities with those of G_2 times theta; the order inside a group is untouched.

    Args:
        U: > 0. second: which items are in G_2. theta: in (0, 1], 1 is no bias.

    Raises:
        ValueError: theta out of range, or a utility <= 0, which theta would raise.

    Example:
        >>> weigh(np.array([[0.4, 0.6]]), np.array([False, True]), 0.5)
        array([[0.4, 0.3]])
    """
    if not 0 < theta <= 1:
        raise ValueError(f"theta lies in (0, 1], got {theta}")
    if not (U > 0).all():  # written so that NaN fails, too
        raise ValueError("utilities must be > 0, since theta would raise negative ones: shift them first")
    return U * np.where(second, U.dtype.type(theta), U.dtype.type(1))[..., None, :]


def swap(
    order: Int[np.ndarray, "n m"],
    second: Bool[np.ndarray, " m"],
    phi: float,
    sweeps: int,
    rng: np.random.Generator,
) -> Int[np.ndarray, "n m"]:
    """Rankings in which items of G_2 have sunk: passes from top to bottom, a G_2 item directly above one of G_1 changes
    places with it with chance phi, and may sink further in the same pass.

    Args:
        order: (n, m) items from best to worst. second: which items are in G_2.
        phi: chance, in [0, 1]. sweeps: passes, >= 0.

    Returns:
        (n, m) orders; inside a group nothing changes.

    Raises:
        ValueError: phi or sweeps out of range.

    Example:
        >>> swap(np.array([[3, 2, 0, 1]]), np.array([False, False, True, True]), 1.0, 4, np.random.default_rng(0))
        array([[0, 1, 3, 2]])
    """
    if not (0 <= phi <= 1 and sweeps >= 0):
        raise ValueError(f"swap needs phi in [0, 1] and sweeps >= 0, got {phi=}, {sweeps=}")
    n, m = order.shape
    low = np.ascontiguousarray(second[order].T)  # (m, n): whether a place holds an item of G_2
    for _ in range(sweeps):
        for p in range(m - 1):
            moves = low[p] & ~low[p + 1] & (rng.random(n, dtype=np.float32) < phi)
            low[p] ^= moves
            low[p + 1] ^= moves
    sunk = np.empty_like(order)
    for group in (False, True):  # the j-th place of a group gets its j-th item
        sunk[group == low.T] = order[second[order] == group]
    return sunk
