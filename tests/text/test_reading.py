"""Texts by characters and words, windows, padding, and taps of named layers."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lossatlas.data.text import fake_verses
from lossatlas.data.words import words
from lossatlas.errors import UserError
from lossatlas.text.characters import characters
from lossatlas.text.model import make_gpt2
from lossatlas.text.taps import patched, tap
from lossatlas.text.words import padded_words, word_ids

VERSES = fake_verses()


def test_characters_give_the_text_back():
    text = characters(VERSES, held_out=0.25)
    assert text.decode(torch.cat([text.train, text.held_out])) == "\n".join(VERSES.text)
    assert len(text.held_out) == round(0.25 * (len(text.train) + len(text.held_out)))
    assert list(text.symbols) == sorted(set("\n".join(VERSES.text)))


def test_windows_are_pieces_of_the_text_and_targets_their_next_symbols():
    text = characters(VERSES)
    starts = text.starts("held_out", 50, 20, torch.Generator().manual_seed(0))
    x, y = text.windows("held_out", starts, 20)
    whole = text.decode(text.held_out)
    for start, a, b in zip(starts.tolist(), x, y, strict=True):
        assert text.decode(a) == whole[start : start + 20]
        assert text.decode(b) == whole[start + 1 : start + 21]
    last = torch.tensor([len(text.held_out) - 21])
    assert text.windows("held_out", last, 20)[1][0, -1] == text.held_out[-1]
    with pytest.raises(UserError, match="begin in"):
        text.windows("held_out", last + 1, 20)
    with pytest.raises(UserError, match="needs"):
        text.starts("held_out", 1, len(text.held_out))


def test_starts_cover_all_places():
    text = characters(VERSES, first=100)
    starts = text.starts("held_out", 2000, 4, torch.Generator().manual_seed(0))
    assert starts.unique().tolist() == list(range(6))  # 10 held-out symbols, windows of 4 and one target


def test_word_ids_are_the_words_with_rare_ones_unknown():
    text = word_ids(VERSES, at_most=40)
    spoken = [w for verse in VERSES.text for w in (*words(verse), "<end>")]
    back = [text.symbols[i] for i in torch.cat([text.train, text.held_out]).tolist()]
    assert len(back) == len(spoken)
    kept = set(text.symbols[:-1])
    assert back == [w if w in kept else "<unk>" for w in spoken]
    counts = torch.bincount(text.train, minlength=41)
    assert (counts[:40].diff() <= 0).all()  # the most frequent first
    assert "<end>" in kept


def test_padding():
    known = {"<pad>": 0, "<unk>": 1, "ark": 2}
    ids, mask = padded_words(["Ark, ark", "ark"], known, 3)
    assert ids.tolist() == [[2, 1, 2], [2, 0, 0]]
    assert mask.tolist() == [[True] * 3, [True, False, False]]
    with pytest.raises(UserError, match="has 4"):
        padded_words(["ark ark ark ark"], known, 3)
    with pytest.raises(UserError, match="has 0"):
        padded_words([""], known, 3)
    with pytest.raises(UserError, match="<unk>"):
        padded_words(["a"], {"<pad>": 0}, 3)


@pytest.fixture
def gpt():
    torch.manual_seed(0)
    return make_gpt2(30, context=8, layers=2, width=16, heads=2).double()


def test_taps_give_the_weight_gradient(gpt):
    ids = torch.arange(12).view(2, 6)
    name = "transformer.h.0.mlp.c_fc"
    with tap(gpt, [name, "transformer.h.0"]) as tapped:
        gpt(input_ids=ids).logits.square().sum().backward()
    layer = gpt.get_submodule(name)
    assert_close(
        tapped.inputs[name].flatten(0, 1).T @ tapped.gradients[name].flatten(0, 1), layer.weight.grad
    )
    assert tapped.gradients["transformer.h.0"].shape == (2, 6, 16)
    before = dict(tapped.outputs)
    gpt(input_ids=ids + 1)
    assert tapped.outputs[name] is before[name]  # nothing is recorded behind the block


def test_patching_the_residual_stream(gpt):
    ids = torch.arange(12).view(2, 6)
    with torch.no_grad():
        plain = gpt(input_ids=ids).logits
        with patched(gpt, "transformer.h.0", lambda h: h):
            assert_close(gpt(input_ids=ids).logits, plain, atol=0, rtol=0)
        with tap(gpt, ["transformer.h.0"]) as tapped:
            gpt(input_ids=ids.flip(0))
        with patched(gpt, "transformer.h.0", lambda h: tapped.outputs["transformer.h.0"]):
            swapped = gpt(input_ids=ids).logits
        assert_close(swapped, plain.flip(0))  # all that later layers know comes through the stream
        with (
            pytest.raises(UserError, match="keeps the shape"),
            patched(gpt, "transformer.h.0", lambda h: h[:1]),
        ):
            gpt(input_ids=ids)
        assert_close(gpt(input_ids=ids).logits, plain, atol=0, rtol=0)  # the failed patch is gone


def test_a_wrong_layer_gets_the_nearest():
    net = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(UserError, match="no layer '00'"), tap(net, ["00"]):
        pass
