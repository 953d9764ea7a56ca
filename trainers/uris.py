"""Places by URI (s3://bucket/runs, file:///mnt/data): what is one, and the file system of ``pyarrow.fs`` that reads it, with waits that end.

Keys are looked for only where the place's own client does (AWS_* in the environment, ~/.aws); a URI that holds one is refused.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

if TYPE_CHECKING:
    from pyarrow import fs

PATIENCE = 5.0  # seconds without a byte from S3 after which its client tries again, twice; its own choice lets a dead server cost minutes
PASSWORD = re.compile(r"://[^/@]*:(?!\d+(/|$))[^@]*@")  # NAME:KEY@, also where the key holds a slash; a port is none
HARMLESS = {  # keys of a URI's query that hold no secret
    *("region", "scheme", "endpoint_override", "allow_bucket_creation", "allow_bucket_deletion", "allow_delayed_open"),
    *("background_writes", "check_directory_existence_before_creation", "tls_ca_file_path", "tls_verify_certificates"),
    *("project_id", "retry_limit_seconds", "default_bucket_location"),  # Google
    *("user", "replication", "buffer_size", "default_block_size"),  # HDFS
    *("enable_tls", "blob_storage_authority", "dfs_storage_authority"),  # Azure
}
FORM = re.compile(r"(?:(s3|gs|gcs|abfs|abfss|hdfs|viewfs|file):/|([a-z][a-z0-9+.-]+)://)/*(.*)", re.DOTALL)


def uri_of(name: str | Path) -> str | None:
    """The URI that a name is, also one that went through ``Path``, which makes one slash of two; None when it is none."""
    found = FORM.fullmatch(str(name))
    if found is None:
        return None
    scheme = found[1] or found[2]
    no_host = scheme == "file" or (scheme in ("hdfs", "viewfs") and str(name).startswith(f"{scheme}:///"))
    return f"{scheme}:///{found[3]}" if no_host else f"{scheme}://{found[3]}"


def absolute(name: str | Path) -> str:
    """A folder's absolute path; a URI as it is."""
    return uri_of(name) or str(Path(name).expanduser().resolve())


def check(uri: str, what: str = "") -> None:
    """Refuse a URI that may hold a key, before it is shown or kept anywhere.

    Args:
        what: the flag that named it, with a space.

    Raises:
        ValueError: says where keys are looked for; the URI is no part of it.
    """
    given = {key.lower() for key, _ in parse_qsl(urlsplit(uri).query, keep_blank_values=True)}
    strange = sorted(given - HARMLESS)
    if not strange and ":" not in urlsplit(uri).netloc.rpartition("@")[0] and not PASSWORD.search(uri):
        return
    found = f" ({strange[0]}=... in its query)" if strange else ""
    raise ValueError(
        f"{what}with a secret in the URI{found} is refused, since it would be kept in files and logs. Leave it out: keys are found in the environment "
        f"(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) or in ~/.aws. In a query these may stand: {', '.join(sorted(HARMLESS))}"
    )


def opened(uri: str) -> tuple[fs.FileSystem, str]:
    """The file system of a URI, and the place in it; nothing is asked of it yet.

    Raises:
        ValueError: no file system of that kind.
    """
    from pyarrow import ArrowException, fs

    try:
        there, base = fs.FileSystem.from_uri(uri)
    except (ArrowException, ImportError, OSError, ValueError) as error:
        raise ValueError(line(error)) from error
    if there.type_name == "s3":  # a URI takes no timeouts, and then all failures are tried ten times
        make, (options,) = there.__reduce__()
        there = make({**options, "connect_timeout": PATIENCE, "request_timeout": PATIENCE})
    return there, base.rstrip("/")


def line(error: BaseException) -> str:
    """The first line of what a library says."""
    return (str(error).splitlines() or [type(error).__name__])[0]
