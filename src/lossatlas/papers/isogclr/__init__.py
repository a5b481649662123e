"""iSogCLR: each sample learns the temperature of its own contrast (Qiu et al.; ICML 2023).

Idea     the loss of an anchor is the worst mean of its negatives' similarities over a KL ball of radius rho around
         uniform; the ball's multiplier is the temperature, so it is learned per sample, by moving averages.
Symbols  unit embeddings e, anchor i, positive i+, negatives N_i, h_i(z) = e_i.e_z - e_i.e_i+.
Eq. 1    RGCL: L_i(w, tau) = tau log E_{z in N_i} exp(h_i(z) / tau) + tau rho, tau in [tau_min, tau_max]
Eq. 2    g = mean of exp(h / tau_i) over the batch's negatives; s_i <- (1 - gamma) s_i + gamma g, first visit s_i = g;
         p_z = exp(h_i(z) / tau_i) / s_i, detached; mean_z p_z h_i(z) has the estimate of L_i's gradient.
Eq. 3    d_i = log s_i + rho - mean_z p_z h_i(z) / tau_i, clipped; u_i <- (1 - beta) u_i + beta d_i;
         tau_i <- clip(tau_i - eta u_i), after the loss of the visit. With the exact mean d_i = rho - KL(p_i, uniform).
Limits   gamma = 1, full batch: eq. 2's gradient is eq. 1's. eta = 0: SogCLR. rho = 0: tau rises; rho > log |N_i|:
         tau falls.
Differs  (a) log s is stored: the bimodal reference's running maximum b_i with s_i / exp(b_i) is the same number.
         (b) As in eq. 2, not the unimodal reference, s_i averages exp(h / tau), not exp(sim / tau): h takes the
         positive along, whose similarity changes between visits. (c) "First visit" is counted per sample, which is
         the reference's first epoch where every sample comes once an epoch. (d) The two views are averaged, not
         summed. (e) The value is L_i's estimate tau (log s + rho); only the gradient is the surrogate's.
"""

from lossatlas.papers.isogclr.bimodal import BimodalISogCLR
from lossatlas.papers.isogclr.losses import ISogCLR, NTXent, SogCLR
from lossatlas.papers.isogclr.pairs import rgcl

__all__ = ["BimodalISogCLR", "ISogCLR", "NTXent", "SogCLR", "rgcl"]
