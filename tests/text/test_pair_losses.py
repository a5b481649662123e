"""DPO and IPO alone: gradients, minimum, precision, what they refuse; lengths and likelihoods in a tuning run."""

import json

import pytest
import torch
from torch.testing import assert_close

from lossatlas.data.text import fake_verses
from lossatlas.papers.rdpo import RDPO, RIPO, SFT, RSLiC
from lossatlas.text import DPO, IPO, TextModel, pretrained
from lossatlas.text.model import make_gpt2
from lossatlas.text.tuning import PreferenceTuning

VERSES = fake_verses()
FOUR = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 20


def test_the_gradient_of_dpo_is_beta_times_the_chance_of_the_other_order():
    log_w = FOUR[0].clone().requires_grad_()
    DPO(beta=0.3)(log_w, *FOUR[1:]).sum().backward()
    h = 0.3 * ((FOUR[0] - FOUR[2]) - (FOUR[1] - FOUR[3]))
    assert_close(log_w.grad, -0.3 / (1 + torch.exp(h)))


def test_ipo_is_least_where_the_log_ratio_is_half_the_inverse_price():
    zero = torch.zeros(1, dtype=torch.float64)
    at = [float(IPO(beta=0.2)(zero + 2.5 + step, zero, zero, zero)) for step in (-0.1, 0.0, 0.1)]
    assert at == pytest.approx([0.01, 0.0, 0.01])


@pytest.mark.parametrize(
    "loss", [DPO(), IPO(), RDPO(eps=0.2), RIPO(eps=0.2), RSLiC(eps=0.2), SFT()], ids=repr
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(loss, dtype):
    """before: IPO squared log-ratios in float16, whose largest number is 65504; bf16 margins had two digits."""
    four = [(part * 30).to(dtype).requires_grad_() for part in FOUR]
    value = loss(*four)
    assert value.dtype == torch.float32
    assert torch.equal(value, loss(*(part.detach().float() for part in four)))
    value.mean().backward()
    assert torch.isfinite(four[0].grad).all()


@pytest.mark.parametrize(
    "four",
    [
        (FOUR.T, FOUR.T, FOUR.T, FOUR.T),  # log-probabilities of tokens: before, a loss a token
        (FOUR[0], FOUR[1], FOUR[2], FOUR[3, :1]),  # before, broadcast
        tuple(FOUR.long()),
        (FOUR[0, 0], FOUR[1, 0], FOUR[2, 0], FOUR[3, 0]),
    ],
    ids=["tokens", "length", "integers", "scalars"],
)
def test_other_arguments_are_refused_in_one_line(four):
    with pytest.raises(ValueError, match=r"needs four floating log-probabilities \(n,\)") as refused:
        DPO()(*four)
    assert "\n" not in str(refused.value)


@pytest.fixture(scope="module")
def model():
    return pretrained(VERSES, vocabulary=150, context=16, layers=1, width=16, heads=2, epochs=1)


def tuned(model, loss):
    return PreferenceTuning(VERSES, model, loss, pairs=20, held_out=5, prompt=4, seed=3, batch_size=8)


def test_policy_and_reference_agree_at_equal_weights_in_training(model):
    """before: a hub model kept its dropout of .1 in the policy, and log-ratios at equal weights had sd .43."""
    gpt = make_gpt2(model.gpt.config.vocab_size, context=16, layers=1, width=16, heads=2)
    for part in (p for p in gpt.modules() if isinstance(p, torch.nn.Dropout)):
        part.p = 0.1
    module = tuned(TextModel(gpt, model.tokenizer, 16), DPO())
    module.train()
    for rows, ref in zip((module.pairs.winner, module.pairs.loser), module.ref, strict=True):
        assert torch.equal(module.net.log_probs(rows), ref)


def test_a_loss_that_asks_for_lengths_gets_the_tokens_of_each_response(model, monkeypatch):
    class Averaged(DPO):
        takes_lengths = True

        def forward(self, log_w, log_l, ref_w, ref_l, len_w, len_l):
            self.seen = (len_w, len_l)
            return super().forward(log_w / len_w, log_l / len_l, ref_w / len_w, ref_l / len_l)

    module = tuned(model, Averaged())
    monkeypatch.setattr(module, "descend", lambda loss: None)
    module._step(torch.tensor([2, 0]))
    for lengths, rows in zip(module.loss.seen, (module.pairs.winner, module.pairs.loser), strict=True):
        assert lengths.tolist() == [int(rows.response[i].sum()) for i in (2, 0)]


def test_likelihoods_are_logged_along_log_spaced_steps(cli, outputs):
    extra = ("+module.likelihoods=true", "+module.log_spaced=true", "callbacks.progress=false")
    answer = cli("experiment=rdpo_text", "scale=smoke", *extra)
    assert answer.code == 0, answer.err
    (path,) = outputs.rglob("record.json")
    record = json.loads(path.read_text())
    steps = [int(point[0]) for point in record["extras"]["path"]]
    assert {0, 1, 2} <= set(steps)
    assert steps == sorted(set(steps))
    first, final = record["extras"]["path"][0], record["extras"]["path"][-1]
    for name, column in (("pairs/chosen", 3), ("pairs/rejected", 4)):
        assert record["metrics"][name] == pytest.approx(final[column] - first[column], abs=1e-4)
