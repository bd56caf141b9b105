"""Floor 4: judged language games between models, self-play and what is learned from it (SPAG, arXiv 2404.10642).

Names are loaded when first used: importing the package costs nothing.
"""

from tenfold.core.lazy import lazy

_HOME = {
    "Episode": "game",
    "Game": "game",
    "State": "game",
    "Turn": "game",
    "Verdict": "game",
    "list_games": "game",
    "make_game": "game",
    "register_game": "game",
    "inflections": "english",
    "plural": "english",
    "judge": "referee",
    "AdversarialTaboo": "taboo",
    "TwoViews": "taboo",
    "TwentyQuestions": "twenty_questions",
    "PromptPack": "prompts",
    "PlayedPrompts": "training_prompts",
    "RandomisedPrompts": "training_prompts",
    "OpponentPool": "self_play",
    "play": "self_play",
    "TranscriptStore": "store",
    "Tally": "outcomes",
    "tally": "outcomes",
    "GameRow": "credit",
    "assign_credit": "credit",
    "utterance_rewards": "credit",
    "gae": "advantages",
    "group_normalised": "advantages",
    "returns_to_go": "advantages",
    "role_conditioned": "advantages",
    "GameBatches": "batches",
    "TokenRow": "batches",
    "token_rows": "batches",
    "with_reference": "batches",
    "imitation_loss": "losses",
    "spag_loss": "losses",
    "ArenaResult": "tournament",
    "arena": "tournament",
    "export": "exports",
    "view": "viewer",
    "scripted_attacker": "experts",
    "scripted_defender": "experts",
    "spelling_clues": "experts",
    "Clues": "files",
    "load_lexicon": "files",
    "load_official_games": "files",
    "load_sft": "files",
    "load_target_words": "files",
    "load_training_rows": "files",
    "save_training_rows": "files",
    "evaluate_reasoning": "reasoning",
    "write_tasks": "reasoning",
    "choice_rows": "bbh",
    "from_textarena": "textarena_bridge",
    "to_textarena": "textarena_bridge",
}

__all__ = list(_HOME)


__getattr__ = lazy(__name__, _HOME)
