"""Prompts: the built-in `matched` suite, suites carried by installed packages, and files.

`load_prompts` takes the name of a suite or the path of a file and returns `Prompt` records.
"""

from interp.prompts.files import read_prompt_file
from interp.prompts.loading import SUITES, load_prompts, sample_items
from interp.prompts.matched import Item, matched_half_prompts, matched_items, matched_prompts
from interp.prompts.packages import (
    google_query_prompts,
    gsm8k_prompts,
    health_search_prompts,
    human_eval_prompts,
    knghtbrd_prompts,
)

__all__ = [
    "SUITES",
    "Item",
    "google_query_prompts",
    "gsm8k_prompts",
    "health_search_prompts",
    "human_eval_prompts",
    "knghtbrd_prompts",
    "load_prompts",
    "matched_half_prompts",
    "matched_items",
    "matched_prompts",
    "read_prompt_file",
    "sample_items",
]
