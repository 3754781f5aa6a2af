"""What the sections of a report need to know of one study."""

from dataclasses import dataclass

from interp.cache.reader import Store
from interp.results import Results


@dataclass(frozen=True, kw_only=True)
class ReportedStudy:
    """One study of a report, which shows one study or two side by side."""

    results: Results
    """Its tables; missing numbers are NaN."""
    given: Results
    """The same tables as they were given."""
    store: Store
    """Where they come from; the token view shows a few of its prompts."""
    suffix: str = ""
    """End of the ids of its parts in the page: nothing for the first study, `-2` for the second."""

    @property
    def model(self) -> str:
        """Name of its model."""
        return str(self.results.run["model"])
