"""Floor 3: alignment of a language model. Supervised fine-tuning, reward model, DPO and IPO, MDLOO, iTeC (AFM, arXiv 2407.21075).

Names are loaded when first used: importing the package costs nothing.
"""

from tenfold.core.lazy import lazy

_HOME = {
    "Sample": "samples",
    "pad": "samples",
    "chat_sample": "chat_samples",
    "sft_loss": "sft",
    "sft_sample": "sft",
    "sft_samples": "sft",
    "sft_batches": "sft",
    "search_mixture": "mixture_search",
    "token_logprobs": "logprobs",
    "sequence_logprobs": "logprobs",
    "reference_logprobs": "logprobs",
    "logprobs_of": "logprobs",
    "Preference": "preference_data",
    "read_preferences": "preference_data",
    "encode_preferences": "preference_data",
    "with_references": "preference_data",
    "preference_batches": "preference_data",
    "review_preferences": "preference_sources",
    "solution_preferences": "preference_sources",
    "dpo_loss": "preference_losses",
    "ipo_loss": "preference_losses",
    "RewardModel": "reward_model",
    "reward_loss": "reward_losses",
    "reward_report": "reward_calibration",
    "leave_one_out": "policy_gradient",
    "advantages": "policy_gradient",
    "mdloo_loss": "policy_gradient",
    "policy_batch": "policy_gradient",
    "Response": "rollout",
    "respond": "rollout",
    "best_of": "rejection",
    "rejection_samples": "rejection",
    "best_of_curve": "rejection",
    "Task": "verifiers",
    "toy_tasks": "verifiers",
    "gsm8k_tasks": "verifiers",
    "read_tasks": "verifiers",
    "number_correct": "verifiers",
    "verify": "verifiers",
    "reward_scorer": "judge",
    "toy_instruct": "toy_instructions",
    "check": "toy_instructions",
    "judge_by": "judge",
    "chat_judge": "judge",
    "Member": "committee",
    "distil": "committee",
    "itec_round": "committee",
    "read_categories": "safety_categories",
    "Categories": "safety_categories",
    "draw_requests": "safety_requests",
    "read_requests": "safety_requests",
    "safety_tasks": "safety_requests",
    "judge_safety": "safety_report",
    "PhrasePolicy": "safety_policy",
}

__all__ = list(_HOME)


__getattr__ = lazy(__name__, _HOME)
