"""What routing and residuals say about two conditions: arrays in, one frozen result out.

Names load when first used, so that `import interp.analyses` stays quick.
"""

from typing import TYPE_CHECKING

from interp.cache.lazy import lazy_names

if TYPE_CHECKING:
    from interp.analyses.behaviour import RankCorrelation as RankCorrelation
    from interp.analyses.behaviour import rank_correlation as rank_correlation
    from interp.analyses.behaviour import shift_bits as shift_bits
    from interp.analyses.behaviour import shift_towards as shift_towards
    from interp.analyses.between_sources import BetweenSources as BetweenSources
    from interp.analyses.between_sources import between_source_variation as between_source_variation
    from interp.analyses.between_sources import (
        source_variation_of_slots as source_variation_of_slots,
    )
    from interp.analyses.causal_test import CausalTest as CausalTest
    from interp.analyses.causal_test import ContrastTest as ContrastTest
    from interp.analyses.causal_test import additive_damage as additive_damage
    from interp.analyses.cells import ClusterSums as ClusterSums
    from interp.analyses.cells import mean_difference_sums as mean_difference_sums
    from interp.analyses.cells import token_adjusted_sums as token_adjusted_sums
    from interp.analyses.coactivation import Coactivation as Coactivation
    from interp.analyses.coactivation import coactivation_counts as coactivation_counts
    from interp.analyses.coactivation import expected_together as expected_together
    from interp.analyses.coactivation import expert_coactivation as expert_coactivation
    from interp.analyses.confirmation import Confirmation as Confirmation
    from interp.analyses.confirmation import confirm as confirm
    from interp.analyses.confirmation import discovery_half as discovery_half
    from interp.analyses.directions import Directions as Directions
    from interp.analyses.directions import SourceCosines as SourceCosines
    from interp.analyses.directions import probe_directions as probe_directions
    from interp.analyses.directions import source_cosines as source_cosines
    from interp.analyses.divergence import Divergence as Divergence
    from interp.analyses.divergence import jensen_shannon_bits as jensen_shannon_bits
    from interp.analyses.divergence import point_divergence as point_divergence
    from interp.analyses.divergence import usage_divergence as usage_divergence
    from interp.analyses.dose_response import DoseResponse as DoseResponse
    from interp.analyses.dose_response import Sufficiency as Sufficiency
    from interp.analyses.dose_response import all_but as all_but
    from interp.analyses.dose_response import difference_between_models as difference_between_models
    from interp.analyses.dose_response import dose_response_of_damage as dose_response_of_damage
    from interp.analyses.dose_response import nested_sets as nested_sets
    from interp.analyses.effects import ExpertEffects as ExpertEffects
    from interp.analyses.effects import TestedEffect as TestedEffect
    from interp.analyses.effects import expert_effects as expert_effects
    from interp.analyses.effects import streamed_expert_effects as streamed_expert_effects
    from interp.analyses.equivalence import Equivalence as Equivalence
    from interp.analyses.equivalence import two_one_sided_tests as two_one_sided_tests
    from interp.analyses.evidence import CausalEvidence as CausalEvidence
    from interp.analyses.evidence import Evidence as Evidence
    from interp.analyses.evidence import Rule as Rule
    from interp.analyses.features import length_features as length_features
    from interp.analyses.features import mean_by_prompt as mean_by_prompt
    from interp.analyses.features import routing_features as routing_features
    from interp.analyses.found_experts import FoundExperts as FoundExperts
    from interp.analyses.found_experts import needed_more as needed_more
    from interp.analyses.found_experts import used_more as used_more
    from interp.analyses.held_out_sources import SourcePair as SourcePair
    from interp.analyses.held_out_sources import SourcePairAuroc as SourcePairAuroc
    from interp.analyses.held_out_sources import auroc_gain_interval as auroc_gain_interval
    from interp.analyses.held_out_sources import auroc_over_source_pairs as auroc_over_source_pairs
    from interp.analyses.held_out_sources import held_out_source_pairs as held_out_source_pairs
    from interp.analyses.held_out_sources import over_source_pairs as over_source_pairs
    from interp.analyses.held_out_sources import source_pair_splits as source_pair_splits
    from interp.analyses.held_out_sources import why_no_source_pairs as why_no_source_pairs
    from interp.analyses.interaction import Interaction as Interaction
    from interp.analyses.interaction import damage_per_slot as damage_per_slot
    from interp.analyses.interaction import interaction_of_damage as interaction_of_damage
    from interp.analyses.jackknife import Jackknife as Jackknife
    from interp.analyses.jackknife import cluster_jackknife as cluster_jackknife
    from interp.analyses.jackknife import q_values as q_values
    from interp.analyses.ladder import RUNGS as RUNGS
    from interp.analyses.ladder import Step as Step
    from interp.analyses.ladder import Verdict as Verdict
    from interp.analyses.ladder import climb as climb
    from interp.analyses.load import ExpertLoad as ExpertLoad
    from interp.analyses.load import StandingCommittee as StandingCommittee
    from interp.analyses.load import expert_load as expert_load
    from interp.analyses.load import load_entropy_bits as load_entropy_bits
    from interp.analyses.load import load_gini as load_gini
    from interp.analyses.load import standing_committee as standing_committee
    from interp.analyses.margins import RoutingMargins as RoutingMargins
    from interp.analyses.margins import routing_margin as routing_margin
    from interp.analyses.margins import routing_margins as routing_margins
    from interp.analyses.matched_on import MatchedOn as MatchedOn
    from interp.analyses.matched_on import divergence_matched_on as divergence_matched_on
    from interp.analyses.matched_on import match_key as match_key
    from interp.analyses.matched_sets import MatchedSets as MatchedSets
    from interp.analyses.matched_sets import draw_matched_sets as draw_matched_sets
    from interp.analyses.paths import ExpertPaths as ExpertPaths
    from interp.analyses.paths import expert_paths as expert_paths
    from interp.analyses.paths import path_counts as path_counts
    from interp.analyses.paths import transition_counts as transition_counts
    from interp.analyses.permutation import permutation_p_value as permutation_p_value
    from interp.analyses.permutation import permuted_labels as permuted_labels
    from interp.analyses.power import Power as Power
    from interp.analyses.power import Variances as Variances
    from interp.analyses.power import detectable_effects as detectable_effects
    from interp.analyses.power import variances as variances
    from interp.analyses.probe_blocks import Added as Added
    from interp.analyses.probe_blocks import RouterSplit as RouterSplit
    from interp.analyses.probe_blocks import added_by as added_by
    from interp.analyses.probe_blocks import router_split as router_split
    from interp.analyses.probe_controls import DescriptionLength as DescriptionLength
    from interp.analyses.probe_controls import Selectivity as Selectivity
    from interp.analyses.probe_controls import description_length as description_length
    from interp.analyses.probe_controls import selectivity as selectivity
    from interp.analyses.probe_gain import Gain as Gain
    from interp.analyses.probe_gain import best_baseline as best_baseline
    from interp.analyses.probe_gain import gain as gain
    from interp.analyses.probe_grid import GridScore as GridScore
    from interp.analyses.probe_grid import grid_probe as grid_probe
    from interp.analyses.probe_residual_usage import WithinTokenUsage as WithinTokenUsage
    from interp.analyses.probe_splits import Splits as Splits
    from interp.analyses.probe_splits import cluster_splits as cluster_splits
    from interp.analyses.probe_splits import index_splits as index_splits
    from interp.analyses.probe_study import ControlledProbe as ControlledProbe
    from interp.analyses.probe_study import controlled_probe as controlled_probe
    from interp.analyses.probe_surface import bag_of_tokens as bag_of_tokens
    from interp.analyses.probe_surface import one_against_rest as one_against_rest
    from interp.analyses.probe_surface import surface_features as surface_features
    from interp.analyses.probe_sweep import Sweep as Sweep
    from interp.analyses.probe_sweep import sweep_probes as sweep_probes
    from interp.analyses.probe_targets import MacroScore as MacroScore
    from interp.analyses.probe_targets import field_splits as field_splits
    from interp.analyses.probe_targets import macro_gain as macro_gain
    from interp.analyses.probe_targets import macro_probe as macro_probe
    from interp.analyses.probes import ProbeScore as ProbeScore
    from interp.analyses.probes import probe as probe
    from interp.analyses.probes import shuffled_probe as shuffled_probe
    from interp.analyses.relabelling import MaxT as MaxT
    from interp.analyses.relabelling import max_t_test as max_t_test
    from interp.analyses.saliency import ExpertRelevance as ExpertRelevance
    from interp.analyses.saliency import ReapSums as ReapSums
    from interp.analyses.saliency import expert_relevance as expert_relevance
    from interp.analyses.saliency import reap_sums as reap_sums
    from interp.analyses.saliency import relevant_experts as relevant_experts
    from interp.analyses.saturation import router_saturation as router_saturation
    from interp.analyses.saturation import saturation_over_depth as saturation_over_depth
    from interp.analyses.specialisation import DomainSpecialisation as DomainSpecialisation
    from interp.analyses.specialisation import VocabularySpecialisation as VocabularySpecialisation
    from interp.analyses.specialisation import domain_specialisation as domain_specialisation
    from interp.analyses.specialisation import (
        vocabulary_specialisation as vocabulary_specialisation,
    )
    from interp.analyses.store_divergence import store_divergence as store_divergence
    from interp.analyses.store_effects import store_expert_effects as store_expert_effects
    from interp.analyses.streaming import CellCounts as CellCounts
    from interp.analyses.streaming import SlotCounts as SlotCounts
    from interp.analyses.super_experts import flag_super_experts as flag_super_experts
    from interp.analyses.super_experts import largest_norms as largest_norms
    from interp.analyses.surface import SurfaceAdjustment as SurfaceAdjustment
    from interp.analyses.surface import surface_adjusted_sums as surface_adjusted_sums
    from interp.analyses.token_classes import class_npmi as class_npmi
    from interp.analyses.token_classes import normalised_pmi as normalised_pmi
    from interp.analyses.usage import Usage as Usage
    from interp.analyses.usage import expert_usage as expert_usage
    from interp.analyses.usage import slots_by_prompt as slots_by_prompt
    from interp.analyses.usage import usage_by as usage_by

_HOMES = {
    "Added": "probe_blocks",
    "BetweenSources": "between_sources",
    "CausalEvidence": "evidence",
    "CausalTest": "causal_test",
    "CellCounts": "streaming",
    "ClusterSums": "cells",
    "Coactivation": "coactivation",
    "Confirmation": "confirmation",
    "ContrastTest": "causal_test",
    "ControlledProbe": "probe_study",
    "DescriptionLength": "probe_controls",
    "Directions": "directions",
    "Divergence": "divergence",
    "DomainSpecialisation": "specialisation",
    "DoseResponse": "dose_response",
    "Equivalence": "equivalence",
    "Evidence": "evidence",
    "ExpertEffects": "effects",
    "ExpertLoad": "load",
    "ExpertPaths": "paths",
    "ExpertRelevance": "saliency",
    "FoundExperts": "found_experts",
    "Gain": "probe_gain",
    "GridScore": "probe_grid",
    "Interaction": "interaction",
    "Jackknife": "jackknife",
    "MacroScore": "probe_targets",
    "MatchedOn": "matched_on",
    "MatchedSets": "matched_sets",
    "MaxT": "relabelling",
    "Power": "power",
    "ProbeScore": "probes",
    "RUNGS": "ladder",
    "RankCorrelation": "behaviour",
    "ReapSums": "saliency",
    "RouterSplit": "probe_blocks",
    "RoutingMargins": "margins",
    "Rule": "evidence",
    "Selectivity": "probe_controls",
    "SlotCounts": "streaming",
    "SourceCosines": "directions",
    "SourcePair": "held_out_sources",
    "SourcePairAuroc": "held_out_sources",
    "Splits": "probe_splits",
    "StandingCommittee": "load",
    "Step": "ladder",
    "Sufficiency": "dose_response",
    "SurfaceAdjustment": "surface",
    "Sweep": "probe_sweep",
    "TestedEffect": "effects",
    "Usage": "usage",
    "Variances": "power",
    "Verdict": "ladder",
    "VocabularySpecialisation": "specialisation",
    "WithinTokenUsage": "probe_residual_usage",
    "added_by": "probe_blocks",
    "additive_damage": "causal_test",
    "all_but": "dose_response",
    "auroc_gain_interval": "held_out_sources",
    "auroc_over_source_pairs": "held_out_sources",
    "bag_of_tokens": "probe_surface",
    "best_baseline": "probe_gain",
    "between_source_variation": "between_sources",
    "class_npmi": "token_classes",
    "climb": "ladder",
    "cluster_jackknife": "jackknife",
    "cluster_splits": "probe_splits",
    "coactivation_counts": "coactivation",
    "confirm": "confirmation",
    "controlled_probe": "probe_study",
    "damage_per_slot": "interaction",
    "description_length": "probe_controls",
    "detectable_effects": "power",
    "difference_between_models": "dose_response",
    "discovery_half": "confirmation",
    "divergence_matched_on": "matched_on",
    "domain_specialisation": "specialisation",
    "dose_response_of_damage": "dose_response",
    "draw_matched_sets": "matched_sets",
    "expected_together": "coactivation",
    "expert_coactivation": "coactivation",
    "expert_effects": "effects",
    "expert_load": "load",
    "expert_paths": "paths",
    "expert_relevance": "saliency",
    "expert_usage": "usage",
    "field_splits": "probe_targets",
    "flag_super_experts": "super_experts",
    "gain": "probe_gain",
    "grid_probe": "probe_grid",
    "held_out_source_pairs": "held_out_sources",
    "index_splits": "probe_splits",
    "interaction_of_damage": "interaction",
    "jensen_shannon_bits": "divergence",
    "largest_norms": "super_experts",
    "length_features": "features",
    "load_entropy_bits": "load",
    "load_gini": "load",
    "macro_gain": "probe_targets",
    "macro_probe": "probe_targets",
    "match_key": "matched_on",
    "max_t_test": "relabelling",
    "mean_by_prompt": "features",
    "mean_difference_sums": "cells",
    "needed_more": "found_experts",
    "nested_sets": "dose_response",
    "normalised_pmi": "token_classes",
    "one_against_rest": "probe_surface",
    "over_source_pairs": "held_out_sources",
    "path_counts": "paths",
    "permutation_p_value": "permutation",
    "permuted_labels": "permutation",
    "point_divergence": "divergence",
    "probe": "probes",
    "probe_directions": "directions",
    "q_values": "jackknife",
    "rank_correlation": "behaviour",
    "reap_sums": "saliency",
    "relevant_experts": "saliency",
    "router_saturation": "saturation",
    "router_split": "probe_blocks",
    "routing_features": "features",
    "routing_margin": "margins",
    "routing_margins": "margins",
    "saturation_over_depth": "saturation",
    "selectivity": "probe_controls",
    "shift_bits": "behaviour",
    "shift_towards": "behaviour",
    "shuffled_probe": "probes",
    "slots_by_prompt": "usage",
    "source_cosines": "directions",
    "source_pair_splits": "held_out_sources",
    "source_variation_of_slots": "between_sources",
    "standing_committee": "load",
    "store_divergence": "store_divergence",
    "store_expert_effects": "store_effects",
    "streamed_expert_effects": "effects",
    "surface_adjusted_sums": "surface",
    "surface_features": "probe_surface",
    "sweep_probes": "probe_sweep",
    "token_adjusted_sums": "cells",
    "transition_counts": "paths",
    "two_one_sided_tests": "equivalence",
    "usage_by": "usage",
    "usage_divergence": "divergence",
    "used_more": "found_experts",
    "variances": "power",
    "vocabulary_specialisation": "specialisation",
    "why_no_source_pairs": "held_out_sources",
}

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
