"""The YAML form of lossatlas.optimizers: composed by the command line, run alone and as a stack."""

import json

import pytest
import torch

RUN = ("experiment=ldr_noisy", "arm=ce", "noise=u00", "scale=smoke", "callbacks.progress=false", "epochs=2")
BARE = ("~optimizer._partial_", "~optimizer.lr", "~optimizer.momentum", "~optimizer.weight_decay")
SGD = "{_target_: torch.optim.SGD, _partial_: true, lr: 0.05, momentum: 0.9, weight_decay: 0.01}".replace(
    ": ", ":"
)
PLAIN = ("optimizer.lr=0.05", "optimizer.momentum=0.9", "optimizer.weight_decay=0.01")


def groups(rules: str) -> tuple[str, ...]:
    return (
        "optimizer._target_=lossatlas.optimizers.Groups",
        *BARE,
        f"+optimizer.make={SGD}",
        f"+optimizer.rules={rules}",
    )


def several(last: str = "") -> tuple[str, ...]:
    parts = f"{{last:{{match:'net.2.*',make:{SGD}{last}}},rest:{{match:'*',make:{SGD}}}}}"
    return ("optimizer._target_=lossatlas.optimizers.Several", *BARE, f"+optimizer.parts={parts}")


def left(outputs) -> dict[int, tuple[dict, dict]]:
    """(record, trained parameters) of each seed."""
    found = {}
    for path in outputs.glob("ldr_noisy/smoke/ce-*/record.json"):
        record = json.loads(path.read_text())
        state = torch.load(path.parent / "last.ckpt", weights_only=True)["state_dict"]
        found[record["seed"]] = (record, {name: v for name, v in state.items() if name.startswith("net.")})
    return found


@pytest.fixture
def trained(cli, tmp_path, monkeypatch):
    """What a command line leaves, in a folder of its own."""

    def call(name: str, *words: str) -> dict[int, tuple[dict, dict]]:
        monkeypatch.setenv("LOSSATLAS_OUTPUTS", str(tmp_path / name))
        answer = cli(*words)
        assert answer.code == 0, answer
        return left(tmp_path / name)

    return call


@pytest.mark.parametrize("words", [groups("[]"), several()], ids=["groups", "several"])
def test_without_differing_rules_it_is_the_plain_optimiser_bitwise(trained, words):
    record, plain = trained("plain", *RUN, *PLAIN)[0]
    same, found = trained("named", *RUN, *words)[0]
    assert all(torch.equal(found[name], p) for name, p in plain.items())
    assert same["metrics"] == record["metrics"]


def test_a_rule_of_rate_0_keeps_its_parameters_and_trains_the_others(trained):
    rule = groups("[{match:'net.0.*',rate:0,weight_decay:0.0}]")
    one, two = (trained(f"e{n}", *RUN, f"epochs={n}", *rule)[0][1] for n in (1, 2))
    assert all(torch.equal(one[name], two[name]) for name in ("net.0.weight", "net.0.bias"))
    assert not torch.equal(one["net.2.weight"], two["net.2.weight"])


@pytest.mark.parametrize(
    "words",
    [groups("[{match:'*.bias',rate:4,weight_decay:0.0}]"), several(",schedule:null")],
    ids=["groups", "several"],
)
def test_seeds_stack_as_they_run_alone(trained, words):
    launcher = ("hydra/launcher=stacked", "hydra.launcher.n_jobs=1", "hydra.launcher.measure=false")
    stacked = trained("stack", "-m", *RUN, *words, "seed=0,1", *launcher)
    alone = trained("alone", "-m", *RUN, *words, "seed=0,1")
    assert {record["device"] for record, _ in stacked.values()} == {"cpu, stack of 2"}
    for seed, (record, found) in alone.items():
        assert stacked[seed][0]["metrics"] == pytest.approx(record["metrics"], abs=1e-5)
        for name, p in found.items():
            torch.testing.assert_close(stacked[seed][1][name], p, atol=1e-5, rtol=1e-5)


def test_a_rule_that_names_nothing_is_one_line(cli):
    answer = cli(*RUN, *groups("[{match:'*.alpha'}]"))
    assert answer.code != 0
    assert "'*.alpha' names no parameter" in answer.err + answer.out
