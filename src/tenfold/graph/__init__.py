"""Questions to knowledge graphs, answered by walks that can be seen (KG-SSRL, arXiv 2405.13640).

Names are loaded when first used: importing the package costs nothing.
"""

from tenfold.core.lazy import lazy

_HOME = {
    "KnowledgeGraph": "knowledge_graph",
    "AnswerIndex": "answers",
    "WalkEnv": "environment",
    "State": "environment",
    "Actions": "environment",
    "PathLabeller": "labels",
    "MinervaPolicy": "policies",
    "MultiHopPolicy": "policies",
    "sl_loss": "losses",
    "reinforce_loss": "losses",
    "HitReward": "losses",
    "EmaBaseline": "losses",
    "entropy_weight": "losses",
    "ShapedReward": "losses",
    "train_scorer": "embed",
    "ScorerConfig": "embed",
    "check_vocabulary": "embed",
    "from_pykeen": "pykeen_scorer",
    "beam_search": "beam",
    "evaluate": "metrics",
    "rank_metrics": "metrics",
    "Reasoner": "reasoner",
    "Answer": "reasoner",
    "explain_html": "explain",
    "plot_paths": "explain",
    "synthetic_kg": "synthetic",
    "mine_rules": "rules",
    "save_rules": "rules",
    "graph_stats": "stats",
}

__all__ = list(_HOME)


__getattr__ = lazy(__name__, _HOME)
