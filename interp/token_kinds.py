"""What kind of text a token is: a word, a part of one, a number, punctuation or space."""

import numpy as np
from jaxtyping import Int

from interp.cache.reader import Store

KINDS = ("word", "word part", "number", "punctuation", "space", "other")
"""Classes of tokens by their text; see `token_kind`."""


def token_kind(text: str) -> str:
    r"""The class of one token's text, one of `KINDS` (ours).

    `word`: letters that follow a space, or begin with a capital; `word part`: other letters;
    `number`: digits alone; `punctuation`: neither letters nor digits; `space`: nothing visible;
    `other`: a mixture, or bytes that are part of a character.

    Example:
        >>> [token_kind(text) for text in (" the", "ing", "The", "42", " =", "\n\n", "x2")]
        ['word', 'word part', 'word', 'number', 'punctuation', 'space', 'other']
    """
    bare = text.strip()
    if not bare:
        return "space"
    if "\ufffd" in bare:
        return "other"
    if bare.isalpha():
        return "word" if text[0].isspace() or bare[0].isupper() else "word part"
    if bare.isdecimal():
        return "number"
    return "other" if any(letter.isalnum() for letter in bare) else "punctuation"


def token_kinds(store: Store, token: Int[np.ndarray, "tokens"]) -> Int[np.ndarray, "tokens"]:
    """For each of these tokens of a store, the place of its class in `KINDS`.

    Args:
        store: The store.
        token: Tokens of it, rising.

    Raises:
        StoreError: If the store does not know the texts of its tokens.
    """
    place = {kind: number for number, kind in enumerate(KINDS)}
    found = np.empty(len(token), dtype=np.int64)
    first = np.searchsorted(store.prompt_index, np.arange(len(store.prompts)))
    prompts, start = np.unique(store.prompt_index[token], return_index=True)
    for prompt, begin, end in zip(prompts, start, [*start[1:], len(token)], strict=True):
        texts = store.token_texts(int(prompt))
        within = token[begin:end] - first[prompt]
        found[begin:end] = [place[token_kind(texts[each])] for each in within]
    return found
