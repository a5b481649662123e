"""Rewards, pairs, flips and files of preferences; the tuning run on made-up text."""

import json

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from lossatlas.data.text import fake_verses
from lossatlas.errors import UserError
from lossatlas.papers.rdpo import DPO
from lossatlas.text import BagReward, flip, pretrained, read_preferences, sample_pairs
from lossatlas.text.tuning import PreferenceTuning, reward_at

torch.set_num_threads(1)
VERSES = fake_verses()


@pytest.fixture(scope="module")
def model():
    return pretrained(VERSES, vocabulary=150, context=16, layers=1, width=16, heads=2, epochs=1)


@pytest.fixture(scope="module")
def prompts(model):
    return torch.tensor([ids[:4] for ids in model.encode(VERSES.text[:400])])


def length_reward(texts):
    return torch.tensor([float(len(text)) for text in texts])


def test_the_reward_tells_the_testaments_apart_and_a_shared_prompt_cancels():
    words = ["jordan tribe ark", "gospel faith grace"]
    rng, label = np.random.default_rng(0), np.arange(400) % 2
    texts = [" ".join(rng.choice([*words[k].split(), "and", "the", "of"], 6)) for k in label]
    reward = BagReward(texts[:200], label[:200])
    expected = np.mean(
        [any(word in text for word in words[k].split()) for text, k in zip(texts, label, strict=True)]
    )
    assert reward.accuracy(texts[200:], label[200:]) == pytest.approx(expected, abs=0.05)
    assert reward.words == 9
    a, b, prompt = texts[0], texts[1], texts[5]
    assert reward([a])[0] < reward([b])[0]
    alone = reward([a])[0] - reward([b])[0]
    assert_close(reward([f"{prompt} {a}"])[0] - reward([f"{prompt} {b}"])[0], alone, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="two classes"):
        BagReward(["a b", "b c"], np.array([1, 1]))


def test_preferences_are_bradley_terry_on_the_reward(model, prompts):
    many = prompts.repeat(10, 1)
    pairs = sample_pairs(model, many, lambda t: length_reward(t) / 10, torch.Generator().manual_seed(0))
    difference = (
        length_reward(model.decode(pairs.winner)) / 10 - length_reward(model.decode(pairs.loser)) / 10
    )
    # among pairs whose rewards differ by g, the better one won with chance sigmoid(g)
    size, won = difference.abs(), difference > 0
    told = size > 0
    expected = torch.sigmoid(size[told]).mean()
    assert_close(won[told].float().mean(), expected, atol=0.03, rtol=0)
    assert expected > 0.55
    assert torch.equal(pairs.winner.ids[:, :4], many)
    assert torch.equal(pairs.loser.ids[:, :4], many)
    assert not pairs.flipped.any()


def test_flips_exchange_winner_and_loser_of_a_share(model, prompts):
    pairs = sample_pairs(model, prompts.repeat(10, 1), length_reward, torch.Generator().manual_seed(0))
    noisy = flip(pairs, 0.4, torch.Generator().manual_seed(1))
    assert_close(float(noisy.flipped.double().mean()), 0.4, atol=0.03, rtol=0)
    for i in (int(noisy.flipped.long().argmax()), int((~noisy.flipped).long().argmax())):
        first, second = (pairs.loser, pairs.winner) if noisy.flipped[i] else (pairs.winner, pairs.loser)
        assert torch.equal(noisy.winner.ids[i], first.ids[i])
        assert torch.equal(noisy.loser.response[i], second.response[i])
    with pytest.raises(ValueError, match="flip rate"):
        flip(pairs, 0.5, torch.Generator())


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_file_of_preferences(tmp_path, model):
    text = VERSES.text[0].split()
    row = {"prompt": " ".join(text[:2]), "chosen": text[2], "rejected": text[3]}
    pairs = read_preferences(write(tmp_path / "p.jsonl", [row, row]), model)
    assert len(pairs) == 2
    assert model.decode(pairs.winner)[0] == " ".join(text[:3])
    assert pairs.winner.ids[0][pairs.winner.mask[0]][-1] == model.eos
    (answer,) = model.encode([text[2]])
    assert pairs.winner.ids[0][pairs.winner.response[0]].tolist() == [*answer, model.eos]


def test_lines_of_preferences_end_in_a_newline_only(tmp_path, model):
    """before: U+2028 and U+0085 inside a text, which JSON allows, cut its line in two; a BOM and Latin-1 broke it."""
    row = {"prompt": "a", "chosen": "b\u2028\u0085b", "rejected": "c"}
    text = "\ufeff" + "".join(json.dumps(row, ensure_ascii=False) + end for end in ("\r\n", "\n\n", "\n"))
    (tmp_path / "p.jsonl").write_bytes(text.encode())
    assert len(read_preferences(tmp_path / "p.jsonl", model)) == 3
    (tmp_path / "p.jsonl").write_bytes(json.dumps(row).encode() + b"\n\xe9\n")
    with pytest.raises(UserError, match=r"line 2, is not utf-8 \(byte 0xe9\)"):
        read_preferences(tmp_path / "p.jsonl", model)
    (tmp_path / "p.jsonl").write_text(json.dumps(row) + "\n\n{}\n")
    with pytest.raises(UserError, match="line 3: a JSON object"):  # as an editor counts
        read_preferences(tmp_path / "p.jsonl", model)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", "holds no preference pair"),
        ("\n\n", "holds no preference pair"),
        ("{}\n", "line 1: a JSON object with the strings prompt, chosen and rejected"),
        ("not json\n", "line 1: a JSON object"),
        ('{"prompt": "a", "chosen": 1, "rejected": "b"}\n', "line 1: a JSON object"),
        ('{"prompt": "a", "chosen": "b", "rejected": "b"}\n' * 3, "chosen equals rejected in every pair"),
        (
            json.dumps({"prompt": "ba" * 60, "chosen": "b", "rejected": "c"}),
            "pair 1 fills the model's context",
        ),
    ],
    ids=["empty", "blank", "keys", "json", "types", "equal", "long"],
)
def test_unusable_files_are_one_line(tmp_path, model, content, text):
    path = tmp_path / "p.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=text) as refused:
        read_preferences(path, model)
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match="cannot be read"):
        read_preferences(tmp_path / "none.jsonl", model)


def tuning(model, **more):
    settings = {"pairs": 20, "held_out": 5, "prompt": 4, "seed": 3, "batch_size": 8}
    return PreferenceTuning(VERSES, model, DPO(0.1), **{**settings, **more})


def test_pairs_and_references_belong_to_the_seed_not_to_the_arm(model):
    one, same, other = tuning(model), tuning(model, eps=0.1), tuning(model, seed=4)
    assert torch.equal(one.prompts, same.prompts)
    assert torch.equal(one.prompts[:10], other.prompts[:10])  # held-out prompts are everybody's
    assert not torch.equal(one.prompts[10:], other.prompts[10:])
    assert (one.pairs.flipped >= same.pairs.flipped).all()  # the same uniform numbers decide
    assert one.pairs.flipped.any()
    assert_close(one.ref[0], model.log_probs(one.pairs.winner).detach())
    assert_close(one.ref[1], model.log_probs(one.pairs.loser).detach())
    assert not any(p.requires_grad for p in one.reference.parameters())
    assert all(p.requires_grad for p in one.net.parameters())


def test_prompts_of_the_three_uses_differ(model):
    rows = {tuple(row) for row in tuning(model).prompts.tolist()}
    assert len(rows) > 20  # of 30; made-up verses may open alike


def test_reward_at_matched_kl_lies_on_the_path():
    path = torch.tensor([[0, 1.0, 0.0], [1, 2.0, 0.5], [2, 4.0, 1.5]], dtype=torch.float64)
    assert reward_at(path, 1.0) == pytest.approx(3.0)
    assert reward_at(path, 0.25) == pytest.approx(1.5)
    assert np.isnan(reward_at(path, 2.0))


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"pairs": 0}, "pairs, held_out, measures >= 1"),
        ({"prompt": 16}, "1 <= prompt < 16"),
        ({"pairs": 5000}, "fewer than pairs=5000"),
        ({"eps": 0.5}, "flip rate"),
        ({"at_kl": 0.0}, "at_kl > 0"),
    ],
    ids=str,
)
def test_refused_settings(model, more, text):
    with pytest.raises(ValueError, match=text):
        tuning(model, **more)
