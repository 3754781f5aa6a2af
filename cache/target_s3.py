"""A prefix of a bucket, through s3fs; objects carry their SHA-256, so that none is sent twice."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from interp.cache.errors import InputError
from interp.cache.share_files import Outgoing, is_known
from interp.cache.targets import BLOCK_BYTES, Sent

INSTALL = "pip install 'moe-interp[hub]'"


class S3Place:
    """Objects below a prefix. Objects appear whole; the manifest goes last.

    Args:
        path: Bucket and prefix.
        storage_options: For `s3fs.S3FileSystem`, such as `endpoint_url` in `client_kwargs`.

    Raises:
        InputError: If s3fs is not installed.
    """

    keeps_history = False

    def __init__(self, path: str, storage_options: Mapping[str, Any]) -> None:
        try:
            from s3fs import S3FileSystem  # type: ignore[import-untyped]
        except ImportError as error:
            raise InputError(f"s3:// needs s3fs; install it with: {INSTALL}") from error
        self._path = path
        self.where = f"s3://{path}"
        # Neither instances nor listings are cached: a cache gives files that were replaced since.
        self._files = S3FileSystem(
            skip_instance_cache=True, use_listings_cache=False, **storage_options
        )

    def revision(self) -> None:
        """A prefix has none."""

    def listing(self) -> dict[str, int]:
        """As `Place` has it."""
        with self._told():
            found: dict[str, Any] = self._files.find(self._path, detail=True)
        return {name[len(self._path) + 1 :]: int(info["size"]) for name, info in found.items()}

    def blocks(self, name: str) -> Iterator[bytes]:
        """As `Place` has it."""
        with (
            self._told(),
            self._files.open(f"{self._path}/{name}", "rb", cache_type="none") as file,
        ):
            while block := file.read(BLOCK_BYTES):
                yield block

    def send(self, files: Sequence[Outgoing], manifest: Outgoing) -> Sent:
        """As `Place` has it."""
        there = self.listing()
        everything = [*files, manifest]
        moved = [each for each in everything if not self._has(each, there)]
        for each in moved:
            each.expect_whole()
            with self._told():
                self._files.put_file(
                    str(each.path),
                    f"{self._path}/{each.file.name}",
                    Metadata={"sha256": each.file.sha256},
                )
        names = {each.file.name for each in everything}
        with self._told():
            for name in there:
                if is_known(name) and name not in names:
                    self._files.rm_file(f"{self._path}/{name}")
        sent = {each.file.name for each in moved}
        return Sent(
            moved=tuple(sorted(sent)),
            kept=tuple(sorted(names - sent)),
            bytes_moved=sum(each.file.bytes for each in moved),
        )

    def _has(self, each: Outgoing, there: Mapping[str, int]) -> bool:
        if there.get(each.file.name) != each.file.bytes:
            return False
        with self._told():
            metadata = self._files.metadata(f"{self._path}/{each.file.name}", refresh=True)
        return bool(metadata.get("sha256") == each.file.sha256)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Failures of the server as sentences."""
        from botocore.exceptions import (  # type: ignore[import-untyped]
            BotoCoreError,
            NoCredentialsError,
        )

        try:
            yield
        except NoCredentialsError as error:
            raise InputError(
                f"{self.where} needs credentials and there are none; set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or a profile"
            ) from error
        except PermissionError as error:
            raise InputError(
                f"{self.where} may not be used with these credentials ({error}); ask its owner"
            ) from error
        except FileNotFoundError as error:
            raise InputError(f"{self.where} does not exist ({error}); check the name") from error
        except (BotoCoreError, OSError) as error:
            raise InputError(
                f"{self.where} cannot be reached ({error}); run the same again to go on"
            ) from error
