"""Secrets are nowhere in what a run leaves behind or says: refused as literals, interpolations kept as they are."""

import json
import os
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from test_resume import at_chunk

from lossatlas.private import redact, written

SMOKE = ("experiment=ldr_noisy", "scale=smoke", "callbacks.progress=false", "arm=ce", "noise=u60", "epochs=1")
SECRET = "s3cr3t-0123456789abcdef"


@pytest.mark.parametrize(
    "word",
    [
        f"+logger.wandb.api_key={SECRET}",
        f"++hydra.launcher.password={SECRET}",
        f"+notes.token={SECRET}",
        "+notes.db_password=1234",
        f"+notes.where=https://me:{SECRET}@host/file.csv",
        f"+notes.where=https://me:{SECRET}@${{oc.env:HOME}}",
    ],
)
@pytest.mark.parametrize("multirun", [(), ("-m",)], ids=["run", "study"])
def test_a_literal_secret_is_refused_before_anything_is_written(cli, outputs, word, multirun):
    answer = cli(*multirun, *SMOKE, word)
    assert answer.code == 2, answer
    (line,) = answer.err.strip().splitlines()
    assert "set an environment variable" in line
    assert "${oc.env:" in line
    assert SECRET not in line
    assert not outputs.exists()


def test_the_value_of_a_secret_variable_is_refused_under_any_name(cli, outputs, monkeypatch):
    monkeypatch.setenv("SERVICE_TOKEN", SECRET)
    answer = cli(*SMOKE, f"+notes.remark=x{SECRET}")
    assert answer.code == 2
    assert "notes.remark=${oc.env:SERVICE_TOKEN}" in answer.err
    assert SECRET not in answer.err


@pytest.mark.parametrize("words", [("logger.wandb.api_key=", "{"), ("logger.wand.token=", "")])
def test_a_secret_in_a_mistyped_word_is_not_said(cli, outputs, words):
    answer = cli(*SMOKE, words[0] + SECRET + words[1])
    assert answer.code == 2
    assert len(answer.err.strip().splitlines()) == 1
    assert SECRET not in answer.err


def left(outputs: Path) -> bytes:
    """Names and bytes of everything that lies in the outputs."""
    paths = sorted(outputs.rglob("*"))
    return b"\n".join([str(p).encode() + (p.read_bytes() if p.is_file() else b"") for p in paths])


def test_a_secret_of_the_environment_is_nowhere_in_what_a_study_leaves(cli, outputs, monkeypatch):
    monkeypatch.setenv("SERVICE_TOKEN", SECRET)
    monkeypatch.setenv("WANDB_MODE", "offline")
    token, header = "+notes.a.token=${oc.env:SERVICE_TOKEN}", "+notes.a.header=Bearer ${notes.a.token}"
    words = (token, header, "+notes.copy=${notes.a}")
    meanwhile = []

    def fail() -> None:
        meanwhile.append(left(outputs))
        raise RuntimeError(f"the service refused token {os.environ['SERVICE_TOKEN']}")

    with at_chunk(monkeypatch, 2, fail):
        answer = cli("-m", *SMOKE, *words, "seed=0,1", "logger=many")
    assert answer.code == 1, answer
    assert b"multirun.yaml" in meanwhile[0]  # Hydra's copy, which a kill would leave behind
    assert SECRET.encode() not in left(outputs) + meanwhile[0] + (answer.out + answer.err).encode()
    record = json.loads(next(outputs.rglob("*-s0-*/record.json")).read_text())
    assert record["status"] == "failed"
    assert record["error"] == "RuntimeError: the service refused token ***"
    assert "refused token ***" in next(outputs.rglob("error.txt")).read_text()
    assert record["config"]["notes"]["a"]["token"] == "${oc.env:SERVICE_TOKEN}"
    assert record["config"]["notes"]["a"]["header"] == "Bearer ${notes.a.token}"
    assert record["config"]["notes"]["copy"] == {"token": "***", "header": "***"}
    config = next(outputs.rglob("*-s0-*/config.yaml")).read_text()
    assert "token: ${oc.env:SERVICE_TOKEN}" in config


def test_a_run_keeps_its_folder_when_its_secret_changes(monkeypatch):
    cfg = OmegaConf.create({"a": {"key": "${oc.env:SERVICE_TOKEN}", "b": 1}, "c": ["${a.key}", "${a.b}"]})
    found = []
    for value in (SECRET, "another-one"):
        monkeypatch.setenv("SERVICE_TOKEN", value)
        found.append(written(cfg))
    assert found[0] == found[1] == {"a": {"key": "${oc.env:SERVICE_TOKEN}", "b": 1}, "c": ["${a.key}", 1]}


def test_texts_without_secrets_stay_as_they_are(monkeypatch):
    monkeypatch.setenv("SHORT_KEY", "abc")
    monkeypatch.setenv("NUMBER_KEY", "12345678")
    for text in ("abc 12345678", "a new key is written +a.key=...)", "https://host:80/a@b", "monkey=tree"):
        assert redact(text) == text
