"""Committees from many rankings, some of whose items are rated too low (Boehmer et al., ICML 2023).

Idea     a committee S of k items has to come from n rankings that push down group G_2. A quota for G_2 repairs the
         damage only where the score still tells G_2's good items from its bad ones: Borda does with few rankings, the
         plurality score SNTV needs more and more of them as the bias grows.
Symbols  m items in G_1 (favoured) and G_2, pos_l(i) in 0..m-1 the place of item i in ranking l (0 = best), bias theta.
Eq. 1    F(S) = sum_l F_l(S); separable scores F_l(S) = sum_{i in S} g(pos_l(i)): SNTV, bloc, top-t, Borda, geometric;
         Chamberlin-Courant F_l(S) = max_{i in S} (m - 1 - pos_l(i)) / (m - 1)           (scores.py)
Eq. 2    U_li = max(w_i + .3 e_li, 1e-6), biased rankings sort theta U_li for i in G_2       (bias.py)
Eq. 3    S = argmax of the score of the biased rankings, |S| = k, |S and G_j| >= floor(k |G_j| / m)  (selection.py)
Eq. 4    rho(S) = F(S) / max F over fresh unbiased rankings
Eq. 5    alpha = min_{i in T_2} E s_hat(i) / E s(i), T_2 the three best of G_2: how much of a good item's mark is left;
         gamma = min (E s_hat(i) - E s_hat(j)) / sd(s_hat(i) - s_hat(j)), i in T_2 above j in G_2    (smoothness.py)
Differs  swapping as bias and eq. 5 are our reconstructions. Utilities below the floor of eq. 2 keep their order (1e-6
         e^u instead of 1e-6), since equal ones would be ranked by index. Eq. 5's pairs start in T_2: SNTV gives the
         last items of G_2 nothing.
"""

from lossatlas.papers.multiwinner.bias import draw_qualities, swap, utilities, weigh
from lossatlas.papers.multiwinner.scores import Score, make_score, position_table, positions_of
from lossatlas.papers.multiwinner.selection import (
    greedy,
    lazy_greedy,
    make_quotas,
    optimum,
    select,
    select_top,
)
from lossatlas.papers.multiwinner.smoothness import smoothness

__all__ = [
    "Score",
    "draw_qualities",
    "greedy",
    "lazy_greedy",
    "make_quotas",
    "make_score",
    "optimum",
    "position_table",
    "positions_of",
    "select",
    "select_top",
    "smoothness",
    "swap",
    "utilities",
    "weigh",
]
