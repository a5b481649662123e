"""Tokens, log-probabilities of responses, generation, pretraining as a kept artefact."""

import copy
import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch.testing import assert_close

from lossatlas.data.text import fake_verses
from lossatlas.errors import UserError
from lossatlas.text import TextModel, chapter_parts, make_gpt2, pad, pretrain, pretrained, train_tokenizer
from lossatlas.text.tokens import join

torch.set_num_threads(1)
SMALL = {"vocabulary": 150, "context": 16, "layers": 2, "width": 16, "heads": 2, "epochs": 1}
VERSES = fake_verses(verses=4)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    tokenizer = train_tokenizer(VERSES.text, 150)
    gpt = make_gpt2(tokenizer.get_vocab_size(), context=16, layers=2, width=16, heads=2)
    for p in gpt.parameters():  # far from uniform, so that a wrong position or mask shows
        torch.nn.init.normal_(p, std=0.4)
    return TextModel(gpt.double(), tokenizer, 16).eval()


PROMPTS, ANSWERS = [[5, 6, 7], [8]], [[9, 10], [11, 12, 13, 1]]


def test_log_probs_are_the_sum_over_response_tokens_one_row_at_a_time(model):
    rows = pad(PROMPTS, ANSWERS)
    expected = []
    for prompt, answer in zip(PROMPTS, ANSWERS, strict=True):
        total, ids = 0.0, list(prompt)
        for token in answer:
            logits = model.gpt(input_ids=torch.tensor([ids])).logits[0, -1]
            total += logits.detach().log_softmax(0)[token].item()
            ids.append(token)
        expected.append(total)
    assert_close(model.log_probs(rows), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("width", [5, 9, 16])
def test_padding_on_either_side_changes_nothing(model, side, width):
    plain = torch.cat([model.log_probs(pad([p], [a])) for p, a in zip(PROMPTS, ANSWERS, strict=True)])
    padded = pad(PROMPTS, ANSWERS, side=side, width=width)
    assert_close(model.log_probs(padded), plain, atol=1e-10, rtol=0)
    other = replace(padded, ids=torch.where(padded.mask, padded.ids, 17))  # nor does what it is filled with
    assert_close(model.log_probs(other), plain, atol=1e-10, rtol=0)
    uniform = copy.deepcopy(model)
    for p in uniform.parameters():
        torch.nn.init.zeros_(p)
    alone = [model.kl(uniform, pad([p], [a])) for p, a in zip(PROMPTS, ANSWERS, strict=True)]
    assert_close(model.kl(uniform, padded), torch.cat(alone), atol=1e-10, rtol=0)


def test_kl_is_zero_to_itself_and_its_mean_over_samples_is_the_log_ratio(model):
    other = copy.deepcopy(model)
    for p in other.parameters():
        p.data.mul_(0.8)
    prompts = torch.tensor([[5, 6]]).repeat(4000, 1)
    rows = model.generate(prompts, new=3, generator=torch.Generator().manual_seed(0))
    assert_close(model.kl(model, rows), torch.zeros(4000, dtype=torch.float64))
    ratio = (model.log_probs(rows) - other.log_probs(rows)).mean()
    assert_close(model.kl(other, rows).mean(), ratio, atol=0.1, rtol=0.1)


def test_generation_follows_the_model_and_stops_at_the_end(model):
    prompts = torch.tensor([[5, 6, 7]]).repeat(20_000, 1)
    rows = model.generate(prompts, new=2, generator=torch.Generator().manual_seed(0))
    p = model.gpt(input_ids=prompts[:1]).logits[0, -1].softmax(0)
    share = torch.bincount(rows.ids[:, 3], minlength=len(p)) / len(prompts)
    assert_close(share, p.float(), atol=0.015, rtol=0)
    ended = rows.ids[:, 3] == model.eos
    assert ended.any()
    assert not rows.mask[ended, 4].any()
    assert rows.mask[~ended, 4].all()
    assert (rows.ids[ended, 4] == model.pad).all()
    assert torch.equal(rows.response[:, 3:], rows.mask[:, 3:])
    assert not rows.response[:, :3].any()


def test_the_cache_and_left_padding_change_no_sample(model):
    """Greedy (very cold) samples of padded prompts are those of a loop without a cache."""
    rows = pad([[5, 6, 7], [8]], side="left")
    found = model.generate(
        rows.ids, rows.mask, new=6, generator=torch.Generator().manual_seed(0), temperature=1e-4
    )
    for prompt, ids, mask in zip([[5, 6, 7], [8]], found.ids, found.mask, strict=True):
        expected = list(prompt)
        while len(expected) < len(prompt) + 6 and (len(expected) == len(prompt) or expected[-1] != model.eos):
            expected.append(int(model.gpt(input_ids=torch.tensor([expected])).logits[0, -1].argmax()))
        assert ids[mask].tolist() == expected


def test_generation_refuses_what_does_not_fit(model):
    prompts = torch.tensor([[5, 6, 7]])
    for settings in ({"new": 14}, {"new": 0}, {"temperature": 0.0}):
        with pytest.raises(ValueError, match="generation needs temperature > 0"):
            model.generate(prompts, **settings)


def test_texts_come_back_from_their_tokens(model):
    texts = list(VERSES.text[:3])
    short = [ids[:14] for ids in model.encode(texts)]
    decoded = model.decode(pad(short, [[model.eos]] * 3, width=16))
    for text, found in zip(texts, decoded, strict=True):
        assert text.startswith(found)
        assert len(found) > 5


def test_padding_and_tokenizer_refuse():
    with pytest.raises(ValueError, match="padding needs rows"):
        pad([])
    with pytest.raises(ValueError, match="padding needs rows"):
        pad([[1, 2]], width=1)
    with pytest.raises(ValueError, match="side left"):
        pad([[1]], side="up")
    with pytest.raises(ValueError, match="a tokenizer needs texts"):
        train_tokenizer([])
    with pytest.raises(ValueError, match="multiple of heads"):
        make_gpt2(10, width=10, heads=3)


def test_join_keeps_rows_in_order():
    rows = pad(PROMPTS, ANSWERS)
    both = join(rows, rows[torch.tensor([1, 0])])
    assert torch.equal(both.ids, torch.cat([rows.ids, rows.ids.flip(0)]))
    assert torch.equal(both.response, torch.cat([rows.response, rows.response.flip(0)]))


def test_parts_are_whole_chapters_and_cover_the_text():
    parts = chapter_parts(VERSES)
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(len(VERSES)))
    chapters = [set(VERSES.chapter[rows].tolist()) for rows in parts.values()]
    assert not chapters[0] & chapters[1]
    assert not (chapters[0] | chapters[1]) & chapters[2]
    assert len(chapters[0]) == 42
    with pytest.raises(ValueError, match="add to 1"):
        chapter_parts(VERSES, (0.7, 0.2, 0.2))
    with pytest.raises(ValueError, match="none for the part prompts"):
        chapter_parts(VERSES, (0.9, 0.099, 0.001))


def kept(tmp_path, **more):
    return pretrained(replace(VERSES, source="test"), root=tmp_path, **{**SMALL, **more})


def test_a_kept_model_is_read_and_is_the_one_that_was_made(tmp_path, capsys):
    torch.manual_seed(1)
    made = kept(tmp_path)
    assert "not made yet" in capsys.readouterr().err
    drawn = torch.rand(1)
    torch.manual_seed(1)
    read = kept(tmp_path)
    assert capsys.readouterr().err == ""
    assert torch.equal(torch.rand(1), drawn)  # making and reading leave the run's random numbers alone
    rows = pad(PROMPTS, ANSWERS)
    assert torch.equal(made.log_probs(rows), read.log_probs(rows))
    assert made.info == read.info
    assert made.encode(VERSES.text[:5]) == read.encode(VERSES.text[:5])
    (path,) = (tmp_path / "models").glob("gpt-*.safetensors")
    with safe_open(str(path), framework="pt") as held:
        assert json.loads(held.metadata()["recipe"])["width"] == 16
    kept(tmp_path, seed=1)
    assert len(list((tmp_path / "models").glob("gpt-*.safetensors"))) == 2  # another recipe, another model


def test_the_file_is_named_by_the_recipe_as_before(tmp_path):
    kept(tmp_path)
    (path,) = (tmp_path / "models").glob("gpt-*.safetensors")
    with safe_open(str(path), framework="pt") as held:
        recipe = json.loads(held.metadata()["recipe"])
    assert list(recipe) == sorted(["vocabulary", "context", "layers", "width", "heads", "epochs", "batch_size", "lr",
                                   "seed", "hub", "only_new", "format", "text"])  # fmt: skip
    assert path.stem == "gpt-" + hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]


def test_weights_that_do_not_fit_are_refused(tmp_path):
    kept(tmp_path)
    (path,) = (tmp_path / "models").glob("gpt-*.safetensors")
    with safe_open(str(path), framework="pt") as held:
        recipe = json.loads(held.metadata()["recipe"])
        state = {key: held.get_tensor(key) for key in held.keys()}  # noqa: SIM118
    state.pop("gpt/transformer.ln_f.weight")
    with pytest.raises(UserError, match="does not fit its recipe"):
        pretrain._unpacked(state, recipe)


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:-20], lambda raw: raw[:-4] + b"\0\0\0?"], ids=["torn", "changed"]
)
def test_a_damaged_model_is_made_anew(tmp_path, capsys, damage):
    made = kept(tmp_path)
    (path,) = (tmp_path / "models").glob("gpt-*.safetensors")
    path.write_bytes(damage(path.read_bytes()))
    capsys.readouterr()
    again = kept(tmp_path)
    assert "training it once" in capsys.readouterr().err
    rows = pad(PROMPTS, ANSWERS)
    assert torch.equal(made.log_probs(rows), again.log_probs(rows))


def test_training_lowers_the_held_out_loss(tmp_path):
    first, later = kept(tmp_path), kept(tmp_path, epochs=12)
    assert later.info["loss"] < first.info["loss"] - 0.1
    assert first.info["loss"] < np.log(150)


def test_made_up_text_touches_no_disk(tmp_path):
    pretrained(VERSES, root=tmp_path, **SMALL)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "models").write_text("a file")
    with pytest.raises(UserError, match="cannot write to the data folder"):
        kept(tmp_path)
