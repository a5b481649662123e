"""rdpo: DPO made unbiased under a known rate of flipped preferences (Ray Chowdhury, Kini, Natarajan; ICML 2024).

Idea     an annotator flips a preference with chance eps. Subtracting the right share of the flipped pair's loss leaves
         the clean loss in expectation, so the policy is as good as one from clean data up to a factor 1 / (1 - 2 eps).
Symbols  prompt s, winner w and loser l as given, policy pi, reference pi0, price beta of leaving it,
         h = beta [ log pi(w|s)/pi0(w|s) - log pi(l|s)/pi0(l|s) ].
Eq. 1    dpo l(h) = -log sigmoid(h).      Eq. 2  rdpo [ (1-eps) l(h) - eps l(-h) ] / (1 - 2 eps), 0 <= eps < 1/2.
Eq. 3    cdpo (1-eps) l(h) + eps l(-h).   Eq. 4  ipo (h/beta - 1/(2 beta))^2, slic max(0, 1 - h), sft -log pi(w|s);
         ripo and rslic are eq. 2 with these for l.
Code     l(-h) = l(h) + h, so rdpo = l(h) - eps h/(1-2eps) and cdpo = l(h) + eps h: stable at any h, and convex in it.
Eq. 5    d rdpo / dh = -zeta, zeta = (1-eps)/(1-2eps) sigmoid(-h) + eps/(1-2eps) sigmoid(h), dpo's + eps/(1-2eps).
Limits   eps = 0: all three are dpo. h -> +inf: rdpo -> -eps h/(1-2eps), no lower bound: norm bound or early stopping.
Differs  linear policies: theta is kept in a ball (paper: a compact set). Text: a small transformer on the King James
         Bible and a fixed bag-of-words reward stand in for GPT-2 large, IMDb and a sentiment classifier.
"""

from lossatlas.papers.rdpo.losses import CDPO, RDPO, RIPO, SFT, RSLiC, SLiC
from lossatlas.text.losses import DPO, IPO, MarginLoss

__all__ = ["CDPO", "DPO", "IPO", "RDPO", "RIPO", "SFT", "MarginLoss", "RSLiC", "SLiC"]
