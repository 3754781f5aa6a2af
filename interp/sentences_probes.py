"""What stands beside the probes, as sentences: unseen prompts, controls, grid, what is added."""

import pandas as pd

from interp.results import Results
from interp.sentences import unseen_sentence


def readout_sentences(results: Results) -> list[str]:
    """What was reached on prompts never seen, and which tokens the probes read."""
    if results.probes.empty:
        return []
    positions = results.run.get("settings", {}).get("capture_positions", "not recorded")
    read = (
        "routing: usage over all compared tokens of a prompt; resid_post: the last token of its "
        f"content where captured (positions: {positions})."
    )
    return [said for said in (unseen_sentence(results.probes), read) if said]


def added_sentences(added: pd.DataFrame) -> list[str]:
    """What one kind of features adds to another, in AUROC."""
    return [
        f"{row.added} adds {row.auroc_gain:+.3f} AUROC ({row.auroc_gain_low:+.3f} to "
        f"{row.auroc_gain_high:+.3f}) to {row.to} ({row.readout}, layer {row.layer:.0f}), and "
        f"saves {row.bits_saved:.3f} bits a prompt ({row.bits_saved_low:+.3f} to "
        f"{row.bits_saved_high:+.3f})."
        for row in added.itertuples()
    ]


def control_sentences(controls: pd.DataFrame) -> list[str]:
    """The least selectivity and compression, and the gain over an untrained model."""
    said = []
    if controls["selectivity"].notna().any():
        said.append(
            f"Selectivity lies between {controls['selectivity'].min():.2f} and "
            f"{controls['selectivity'].max():.2f}, compression between "
            f"{controls['compression'].min():.2f} and {controls['compression'].max():.2f} "
            f"(up to {controls['shuffled_compression'].max():.2f} with shuffled labels)."
        )
    if controls["untrained_auroc"].notna().any():
        n_above = int((controls["gain_over_untrained_low"] > 0).sum())
        said.append(
            f"On an untrained model the same probes reach up to "
            f"{controls['untrained_auroc'].max():.2f}; {n_above} of {len(controls)} are better "
            "on the trained one, by the interval of the difference."
        )
    return said
