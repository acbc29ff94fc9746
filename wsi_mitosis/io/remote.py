"""Files at URLs, such as `s3://bucket/a.svs` and `https://host/a.svs`, which fsspec reads.

A URL may hold a password or a signature. What is shown or written of it is `shown_url`, and no error of
fsspec is passed on, because its text may have the whole URL.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

from wsi_mitosis.errors import InputError
from wsi_mitosis.io.installing import install, install_named

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fsspec import AbstractFileSystem

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.:-]*://")
"""Start of a URL, also of a chained one of fsspec, such as `zip::s3://`."""
HTTP, S3 = ("http", "https"), ("s3", "s3a")
PACKAGES = ("aiohttp", "fsspec", "s3fs")
"""Packages of the extra `remote`, which read these schemes."""
HIDDEN = "***"
STAGE = "asking the store"
CHUNK_BYTES = 8 << 20
SILENT_SECONDS = 60.0
"""How long a server may send nothing. A limit on the whole transfer, such as aiohttp's 300 s, would depend on
the size of the slide."""
VERSIONS = (
    "etag",
    "versionid",
    "generation",
    "lastmodified",
    "last-modified",
    "mtime",
    "modified",
    "created",
)
"""What stores say that changes with a file, in lower case."""
GONE, REFUSED = {404, 410}, {401, 403, 407}
"""Statuses of HTTP (RFC 9110, 15.5) that the next attempt would get as well."""


class RemoteError(Exception):
    """A store that does not give a file.

    Attributes:
        cause: What is wrong, without anything secret.
        remedy: What the user can do.
        absent: Whether the file does not exist.
        transient: Whether another attempt may succeed.
    """

    def __init__(self, cause: str, remedy: str, *, absent: bool = False, transient: bool = False) -> None:
        super().__init__(cause)
        self.cause, self.remedy, self.absent, self.transient = cause, remedy, absent, transient


class RemoteState(NamedTuple):
    """What a store says of a file.

    Attributes:
        size: Its size, bytes.
        version: Changes with its content; empty if the store says nothing.
    """

    size: int
    version: str


def is_url(text: str) -> bool:
    """Return whether a text is a URL and not a path."""
    return URL.match(text) is not None


def is_chained(url: str) -> bool:
    """Return whether fsspec would read a URL through another one, as `zip://a.svs::s3://bucket/b.zip`."""
    return "::" in url


def shown_url(url: str) -> str:
    """Return a URL without user, password, query and fragment, any of which may be secret."""
    scheme, _, rest = url.partition("://")
    if is_chained(url):
        return f"{scheme}://{HIDDEN}"
    end = r"[?#]" if scheme.lower() in HTTP else r"\?"  # a key of an object store may have a #
    host, slash, path = re.split(end, rest, maxsplit=1)[0].partition("/")
    host = host.rpartition("@")[2]
    name, colon, port = host.partition(":")
    if colon and not name.startswith("[") and not port.isdecimal():
        host = HIDDEN  # no port: perhaps a part of a password that has a slash
    return f"{scheme}://{host}{slash}{path}"


def url_parts(url: str) -> tuple[str, ...]:
    """Return scheme, host and path of a URL as names of folders and of a file; none leads elsewhere."""
    scheme, _, rest = shown_url(url).partition("://")
    path = unquote(rest) if scheme.lower() in HTTP else rest
    return f"{scheme}:", *(
        part for part in path.replace("\0", "\ufffd").split("/") if part not in {"", ".", ".."}
    )


def ask(url: str) -> RemoteState:
    """Ask a store for the size and the version of a file.

    Raises:
        InputError: if the scheme is unknown, or its library is not installed.
        RemoteError: if the store does not have or give the file, or does not state its size.
    """
    system, path = _system(url)
    try:
        system.invalidate_cache()
        info = system.info(path)
    except Exception as error:  # noqa: BLE001 - each of fsspec's libraries raises kinds of its own
        raise _fault(error) from None
    if info.get("type") == "directory":
        raise RemoteError("a folder, not a slide's file", "Give the URL of the slide's own file")
    if not isinstance(size := info.get("size"), int):
        raise RemoteError("the store does not state the size of the file", "Copy the slide to a disk first")
    stated = {name.lower(): str(value) for name, value in info.items() if value is not None}
    return RemoteState(size, " ".join(f"{name}={stated[name]}" for name in VERSIONS if name in stated))


def read_chunks(url: str, size: int) -> Iterator[bytes]:
    """Yield the content of a file.

    Args:
        url: The file.
        size: Its size, bytes, as `ask` returned it.

    Raises:
        InputError: as `ask`.
        RemoteError: as `ask`, also in the middle.
    """
    system, path = _system(url)
    # a server of HTTP need not know ranges; an object store gives each range with retries of its own
    how: dict[str, Any] = (
        {"block_size": 0, "size": size} if _scheme(url) in HTTP else {"block_size": CHUNK_BYTES}
    )
    try:
        with system.open(path, "rb", **how) as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
    except Exception as error:  # noqa: BLE001 - as above
        raise _fault(error) from None


def _scheme(url: str) -> str:
    return url.partition("://")[0].lower()


def _system(url: str) -> tuple[AbstractFileSystem, str]:
    """Return the file system of a URL, and the path on it.

    Raises:
        InputError: if the scheme is unknown, or its library is not installed.
        RemoteError: if the URL is malformed.
    """
    scheme = _scheme(url)
    try:
        from fsspec.core import url_to_fs

        options: dict[str, Any] = {}
        if scheme in HTTP:
            from aiohttp import ClientTimeout

            options["timeout"] = ClientTimeout(
                total=None, sock_connect=SILENT_SECONDS, sock_read=SILENT_SECONDS
            )
        system, path = url_to_fs(url, **options)
    except ImportError as error:
        raise InputError(
            f"a library that reads {scheme}:// is not installed ({error.name or error})",
            subject=shown_url(url),
            stage=STAGE,
            remedy=_installing(scheme, error),
        ) from None
    except Exception as error:  # noqa: BLE001 - its text may have the whole URL
        raise RemoteError(
            f"the URL cannot be used ({type(error).__name__})", "Check the scheme and the address"
        ) from None
    return system, path


def _installing(scheme: str, error: ImportError) -> str:
    """Return how the libraries are installed that read a scheme."""
    if scheme in (*HTTP, *S3):
        return install(*PACKAGES)
    if (error.name or "").partition(".")[0] == "fsspec":
        return install("fsspec")
    return install_named(f"the library that reads {scheme}://")  # fsspec's text, in the cause, has its name


def _fault(error: Exception) -> RemoteError:
    """Return what an error of fsspec means, without its text."""
    chain = list(_chain(error))
    status = next((s for link in chain if (s := _status(link)) is not None), None)
    if status in REFUSED or (status is None and any(map(_is_refusal, chain))):
        said = "" if status is None else f" (status {status})"
        return RemoteError(
            f"the store refuses access{said}", "Check the credentials, and whether they have expired"
        )
    if status in GONE or (status is None and isinstance(error, FileNotFoundError) and len(chain) == 1):
        return RemoteError("no such file in the store", "Check the URL", absent=True)
    said = type(chain[-1]).__name__ if status is None else f"status {status}"
    return RemoteError(
        f"the store did not answer ({said})", "Check the store and the network, and run again", transient=True
    )


def _is_refusal(error: BaseException) -> bool:
    """Return whether an error is about credentials, such as botocore's NoCredentialsError."""
    return isinstance(error, PermissionError) or "Credential" in type(error).__name__


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _status(error: BaseException) -> int | None:
    """Return the status of HTTP in an error of aiohttp or botocore."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        status = getattr(error, "status", None)
    return status if isinstance(status, int) else None
