"""A dataset on the Hub, through huggingface_hub; a push shows in one commit, or not at all."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from interp.cache.errors import InputError
from interp.cache.share_files import Outgoing, is_known
from interp.cache.target_s3 import INSTALL
from interp.cache.targets import BLOCK_BYTES, Sent

MESSAGE = "Share a store of moe-interp"


class HubPlace:
    """One dataset at one revision. Reading sees one commit, whatever is pushed meanwhile.

    Args:
        repo: `USER/NAME`.
        revision: Branch, tag or commit; the main branch if None.
        endpoint: Address of the Hub; that of huggingface_hub if None.
        token: That of huggingface_hub if None.
        is_public: Whether a dataset that is made can be seen by all.

    Raises:
        InputError: If huggingface_hub is not installed.
    """

    keeps_history = True

    def __init__(
        self,
        repo: str,
        revision: str | None,
        *,
        endpoint: str | None,
        token: str | None,
        is_public: bool,
    ) -> None:
        try:
            from huggingface_hub import HfApi
        except ImportError as error:
            raise InputError(f"hf:// needs huggingface_hub; install it with: {INSTALL}") from error
        self._repo, self._revision, self._is_public = repo, revision, is_public
        self._endpoint, self._token = endpoint, token
        self._api = HfApi(endpoint=endpoint, token=token)
        self.where = f"hf://datasets/{repo}"

    def listing(self) -> dict[str, int]:
        """As `Place` has it."""
        with self._told():
            if not self._exists():
                return {}
        return {name: each.size for name, each in self._files.items()}

    def blocks(self, name: str) -> Iterator[bytes]:
        """As `Place` has it."""
        with self._told():
            path = f"datasets/{self._repo}@{self._commit}/{name}"
            with self._reader.open(path, "rb", block_size=0) as file:
                while block := file.read(BLOCK_BYTES):
                    yield block

    def send(self, files: Sequence[Outgoing], manifest: Outgoing) -> Sent:
        """As `Place` has it. Large files go first; the Hub keeps those of a push that broke."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        everything = [*files, manifest]
        with self._told():
            self._make()
            moved = [each for each in everything if not self._has(each)]
            additions = []
            for each in moved:
                each.expect_whole()
                additions.append(
                    CommitOperationAdd(path_in_repo=each.file.name, path_or_fileobj=each.path)
                )
                self._api.preupload_lfs_files(
                    self._repo, additions[-1:], repo_type="dataset", revision=self._revision
                )
            names = {each.file.name for each in everything}
            stale = [name for name in self._files if is_known(name) and name not in names]
            commit = self._commit
            if moved or stale:
                done = self._api.create_commit(
                    self._repo,
                    [*additions, *(CommitOperationDelete(path_in_repo=name) for name in stale)],
                    commit_message=MESSAGE,
                    repo_type="dataset",
                    revision=self._revision,
                    parent_commit=commit,
                )
                commit = done.oid
        sent = {each.file.name for each in moved}
        return Sent(
            moved=tuple(sorted(sent)),
            kept=tuple(sorted(names - sent)),
            bytes_moved=sum(each.file.bytes for each in moved),
            revision=commit,
        )

    def revision(self) -> str:
        """The commit that is read, asked for once."""
        return self._commit

    @cached_property
    def _commit(self) -> str:
        with self._told():
            info = self._api.dataset_info(self._repo, revision=self._revision)
        return str(info.sha)

    def _exists(self) -> bool:
        if self._revision is None:
            return self._api.repo_exists(self._repo, repo_type="dataset")
        return self._api.revision_exists(self._repo, self._revision, repo_type="dataset")

    @cached_property
    def _reader(self) -> Any:
        """What it caches belongs to one commit, and stays true."""
        from huggingface_hub import HfFileSystem

        return HfFileSystem(endpoint=self._endpoint, token=self._token, skip_instance_cache=True)

    @cached_property
    def _files(self) -> dict[str, Any]:
        with self._told():
            tree = self._api.list_repo_tree(
                self._repo, recursive=True, revision=self._commit, repo_type="dataset"
            )
            return {each.path: each for each in tree if hasattr(each, "blob_id")}

    def _make(self) -> None:
        self._api.create_repo(
            self._repo, repo_type="dataset", private=not self._is_public, exist_ok=True
        )
        if self._revision is not None:
            self._api.create_branch(
                self._repo, branch=self._revision, repo_type="dataset", exist_ok=True
            )

    def _has(self, each: Outgoing) -> bool:
        there = self._files.get(each.file.name)
        if there is None or there.size != each.file.bytes:
            return False
        if there.lfs is not None:
            return bool(there.lfs.sha256 == each.file.sha256)
        content = each.path.read_bytes()
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
        return bool(there.blob_id == blob.hexdigest())

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Failures of the server as sentences. The Hub's client lets through errors of the library
        for HTTP below it, of which there have been two; its own are made from the base of them.
        """
        from huggingface_hub import errors

        unreachable: Any = (OSError, RuntimeError, errors.HfHubHTTPError.__mro__[1])
        try:
            yield
        except errors.RevisionNotFoundError as error:
            raise InputError(
                f"{self.where} has no revision {self._revision!r}; give one that it has"
            ) from error
        except (errors.GatedRepoError, errors.RepositoryNotFoundError) as error:
            raise InputError(
                f"there is no dataset {self._repo} that this token may see; check the name, and "
                "log in with: hf auth login"
            ) from error
        except errors.HfHubHTTPError as error:
            raise InputError(_sentence(self.where, error)) from error
        except errors.OfflineModeIsEnabled as error:
            raise InputError(
                f"{self.where} cannot be reached, since HF_HUB_OFFLINE is set; unset it"
            ) from error
        except unreachable as error:
            raise InputError(
                f"{self.where} cannot be reached ({error}); run the same again to go on"
            ) from error


def _sentence(where: str, error: Any) -> str:
    status = getattr(error.response, "status_code", None)
    if status == 401:
        return f"{where} needs a token and there is none that it takes; log in with: hf auth login"
    if status == 403:
        return f"{where} may not be written with this token; take one with the right to write"
    if status in (409, 412):
        return f"{where} was changed by somebody else meanwhile; run the same again"
    said = getattr(error, "server_message", None) or type(error).__name__
    return f"{where} answered {status} ({said}); run the same again to go on"
