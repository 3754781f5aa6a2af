"""What routing and residuals say about two conditions: arrays in, one frozen result out.

Names load when first used, so that `import interp.analyses` stays quick.
"""

from typing import TYPE_CHECKING

from interp.cache.lazy import lazy_names

if TYPE_CHECKING:
    from interp.analyses.divergence import Divergence as Divergence
    from interp.analyses.divergence import jensen_shannon_bits as jensen_shannon_bits
    from interp.analyses.divergence import usage_divergence as usage_divergence
    from interp.analyses.features import bag_of_tokens as bag_of_tokens
    from interp.analyses.features import length_features as length_features
    from interp.analyses.features import mean_by_prompt as mean_by_prompt
    from interp.analyses.features import routing_features as routing_features
    from interp.analyses.permutation import permutation_p_value as permutation_p_value
    from interp.analyses.permutation import permuted_labels as permuted_labels
    from interp.analyses.probes import ProbeScore as ProbeScore
    from interp.analyses.probes import grouped_folds as grouped_folds
    from interp.analyses.probes import probe as probe
    from interp.analyses.probes import shuffled_probe as shuffled_probe
    from interp.analyses.usage import Usage as Usage
    from interp.analyses.usage import expert_usage as expert_usage
    from interp.analyses.usage import slots_by_prompt as slots_by_prompt

_HOMES = {
    "Divergence": "divergence",
    "ProbeScore": "probes",
    "Usage": "usage",
    "bag_of_tokens": "features",
    "expert_usage": "usage",
    "grouped_folds": "probes",
    "jensen_shannon_bits": "divergence",
    "length_features": "features",
    "mean_by_prompt": "features",
    "permutation_p_value": "permutation",
    "permuted_labels": "permutation",
    "probe": "probes",
    "slots_by_prompt": "usage",
    "routing_features": "features",
    "shuffled_probe": "probes",
    "usage_divergence": "divergence",
}

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
