"""What the experiments of a study say, as sentences: computed from the rows of their tables."""

from typing import Any

import pandas as pd

from interp.analyses.evidence import counted, unit_of_outcome


def own_sentences(contrasts: pd.DataFrame) -> list[str]:
    """What must not be trusted in the main contrast, and where else the found set matters most."""
    main = contrasts[contrasts["role"] == "main"]
    notes = [str(note) for note in main.get("notes", pd.Series()).dropna() if note]
    return [*notes, *_elsewhere(contrasts)]


def _elsewhere(contrasts: pd.DataFrame) -> list[str]:
    """The largest interaction under a placebo contrast, which is no placebo."""
    placebos = contrasts[contrasts["role"] == "placebo"].dropna(subset="interaction_of_main_set")
    if placebos.empty:
        return []
    most = placebos.sort_values("interaction_of_main_set").iloc[-1]
    return [
        "Under the placebo contrasts the found set itself has an interaction of at most "
        f"{most['interaction_of_main_set']:+.3g} ({most['contrast']}). That says whom else "
        "these experts serve and is no placebo, since nothing was searched for that contrast."
    ]


def slope_sentences(table: pd.DataFrame) -> list[str]:
    """What each further expert adds, and how many matched sets gain less."""
    row = table.iloc[0]
    if pd.isna(row["slope"]):
        return ["One size of the found set was taken out, so there is no slope."]
    said = (
        f"Over {row['n_sizes']:.0f} sizes, each further expert that is taken out adds "
        f"{row['slope']:+.3g} {unit_of_outcome(row['outcome'])} to the interaction, 95 % interval "
        f"{row['slope_low']:+.3g} to {row['slope_high']:+.3g} (one-sided "
        f"p = {row['p_greater']:.2g})"
    )
    if row["n_matched"]:
        share = f"{100 * row['share_below']:.0f} % of {counted(row['n_matched'], 'matched set')}"
        said += f"; {share} gain less with each expert"
    return [f"{said}."]


def second_sentences(table: pd.DataFrame) -> list[str]:
    """Where the same procedure on a second model comes out, and the difference."""
    return [
        f"{_found(row)} Each model was searched by itself: experts of one mean nothing in the "
        "other, and a model in which none is found counts as 0."
        for _, row in table.iterrows()
    ]


def _found(row: Any) -> str:
    first, second = row["model"], row["second_model"]
    if not row["n_found"] and not row["n_found_second"]:
        return (
            f"The same procedure found no expert in {first} and none in {second}, so there is "
            "nothing to compare."
        )
    found = f"In {second} the same procedure found {_experts(row['n_found_second'])}"
    found += "" if row["n_found"] else f", and in {first} no expert"
    than = "larger" if row["difference"] > 0 else "smaller"
    apart = "" if _is_apart(row) else " That cannot be told from no difference."
    return (
        f"{found}; the interaction is {abs(row['difference']):.3g} "
        f"{unit_of_outcome(row['outcome'])} {than} in {first} ({_number(row, '')} against "
        f"{_number(row, '_second')}; 95 % interval of the difference "
        f"{row['difference_low']:+.3g} to {row['difference_high']:+.3g}, one-sided "
        f"p = {row['p_greater']:.2g}).{apart}"
    )


def _experts(count: float) -> str:
    return counted(count, "expert") if count else "no expert"


def _number(row: Any, end: str) -> str:
    return f"{row[f'interaction{end}']:+.3g}"


def _is_apart(row: Any) -> bool:
    return bool(row["difference_low"] > 0 or row["difference_high"] < 0)
