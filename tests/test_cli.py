"""Command lines: every wrong one gives one line, the nearest right name or the allowed values, and exit code 2."""

import os
import subprocess
import sys

import pytest

SMOKE = ("experiment=ldr_noisy", "scale=smoke")
BAD = [
    ("experiment=ldr_noise", "ldr_noisy"),
    ("experiment=", "no such experiment"),
    ("experiment=paper/ldr_noisee", "experiment"),
    ("-m experiment=ldr_noise", "ldr_noisy"),
    ("-m experiment=ldr_noisy,ldr_datasets", "one study at a time"),
    ("-m scale=smoke", "experiment=NAME"),
    ("scale=smoke", "no experiment"),
    ("scale=smokey", "smoke"),
    ("arm=aldr", "aldr_kl"),
    ("arm=xyzzy", "known:"),
    ("-m arm=ce,aldr", "aldr_kl"),
    ("noise=u31", "u30"),
    ("noise=1.5", "u00"),
    ("noise.rate=1.5", "[0, 1]"),
    ("noise.rate=-0.1", "[0, 1]"),
    ("noise.rate=abc", "noise"),
    ("seed=abc", "integer"),
    ("seed=-1", "greater than or equal to 0"),
    ("seed=1.5", "integer"),
    ("sed=1", "seed"),
    ("epochs=0", "greater than 0"),
    ("epochs=-3", "greater than 0"),
    ("epochs=ten", "integer"),
    ("batch_size=0", "greater than 0"),
    ("batch_size=-64", "greater than 0"),
    ("chunk=0", "greater than 0"),
    ("eval_every=0", "greater than 0"),
    ("lr=-0.1", "(0, inf)"),
    ("lr=fast", "number"),
    ("lr=nan", "(0, inf)"),
    ("theta=0", "(0, inf)"),
    ("arm=gce theta=1.5", "0 < q <= 1"),
    ("arms.aldr_kl.alpha=1.0", "alpha > 1"),
    ("arms.aldr_kl.alfa=3", "alpha"),
    ("arms.aldr_kl.normalise=l2", "normalise"),
    ("trainer=cpuu", "cpu"),
    ("trainer=gpu", "GPU"),
    ("trainer.devices=9", "ddp_sim"),
    ("trainer.devices=0", "greater than 0"),
    ("trainer.precision=8", "precision"),
    ("trainer.gradient_clip=-1", "greater than 0"),
    ("trainer=ddp_sim batch_size=17", "multiple"),
    ("logger=tensorbord", "tensorboard"),
    ("debug=overfitt", "overfit"),
    ("callbacks=defaults", "default"),
    ("net=mlpp", "mlp"),
    ("data=leter", "letter"),
    ("data.val_fold=7", "val_fold"),
    ("limit.train=0", "greater than 0"),
    ("limit.train=-5", "greater than 0"),
    ("grid=everything", "core"),
    ("rerun=maybe", "rerun"),
    ("publish=perhaps", "publish"),
    ("experiment", "key=value"),
    ("=3", "key=value"),
    ("lr=[1,2", "key=value"),
]


@pytest.mark.parametrize(("line", "hint"), BAD, ids=[line for line, _ in BAD])
def test_a_bad_command_line_is_one_line_and_exit_code_2(cli, outputs, line, hint):
    words = line.split()
    given = {word.split("=")[0] for word in words}
    if line.startswith("-m grid") or line == "grid=everything":
        words = ["-m", *words]
    if "-m" not in given and line not in ("scale=smoke", "experiment", "=3"):
        words = [word for word in SMOKE if word.split("=")[0] not in given] + words
    elif line.startswith("-m arm"):
        words = [words[0], *SMOKE, *words[1:]]
    answer = cli(*words)
    assert answer.code == 2, answer
    lines = answer.err.strip().splitlines()
    assert len(lines) == 1, answer.err
    assert hint in lines[0]
    assert "Traceback" not in answer.err + answer.out
    assert not list(outputs.rglob("record.json"))


def test_a_missing_data_set_names_every_source_and_the_command_that_fetches(cli, tmp_path, monkeypatch):
    from lossatlas.data import transport

    monkeypatch.setattr(transport.subprocess, "run", _no_subprocess)
    answer = cli(
        "experiment=ldr_noisy", "data.sources=[{kind: mirror, path: nobody/letter, x: x, y: y}]", "epochs=1"
    )
    assert answer.code == 2
    assert "fetch_data.py letter" in answer.err


def _no_subprocess(*args, **kwargs):
    raise AssertionError("no test reaches the network")


def test_an_output_folder_that_cannot_be_written_is_one_line(cli, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("a file where a folder should be")
    answer = cli(*SMOKE, f"output_root={blocked}")
    assert answer.code == 2
    assert "output_root" in answer.err
    assert len(answer.err.strip().splitlines()) == 1


def test_the_traceback_is_there_for_who_asks(cli):
    from lossatlas.errors import UserError

    with pytest.raises(BaseException) as caught:  # noqa: PT011  (SystemExit or the error itself)
        cli(*SMOKE, "arm=nobody", "debug=trace")
    assert isinstance(caught.value, (UserError, pytest.fail.Exception)) or "nobody" in str(caught.value)


@pytest.mark.parametrize(
    "words", [[], ["--help"], ["experiment=ldr_noise"], [*SMOKE, "seed=abc"], ["--version"]]
)
def test_lists_help_and_errors_do_not_import_torch(words):
    code = (
        f"import sys; sys.argv = ['run', *{words!r}]\nfrom lossatlas.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\nassert 'torch' not in sys.modules"
    )
    env = {key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, env=env)
    assert done.returncode == 0, done.stderr


def test_no_word_lists_the_papers_and_a_paper_its_experiments(cli):
    answer = cli()
    assert answer.code == 0
    assert "  ldr " in answer.out
    assert all(len(line) < 200 for line in answer.out.splitlines())
    assert "experiment=ldr_noisy\n" in cli("ldr").out
    assert cli("lrd").code == 2
