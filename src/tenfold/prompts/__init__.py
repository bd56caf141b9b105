"""Floor 3: search for better prompts with language models, and what tells whether to believe the outcome (arXiv 2402.02101).

Names are loaded when first used: importing the package costs nothing.
"""

from tenfold.core.lazy import lazy

_HOME = {
    "Example": "examples",
    "Task": "task",
    "Cause": "task",
    "Placement": "task",
    "subset": "task",
    "load_bbh": "task_files",
    "few_shot_cot": "task_files",
    "load_table": "task_files",
    "bbh_tasks": "task_files",
    "extract": "answers",
    "Score": "scorers",
    "Scorer": "scorers",
    "ExactMatch": "scorers",
    "MultipleChoice": "scorers",
    "NumberMatch": "scorers",
    "RegexMatch": "scorers",
    "JudgeScorer": "scorers",
    "FunctionScorer": "scorers",
    "ScoreMatrix": "evaluation",
    "evaluate": "evaluation",
    "evaluate_async": "evaluation",
    "PromptOptimizer": "optimizer",
    "Settings": "optimizer",
    "APE": "resampling",
    "IterativeAPE": "resampling",
    "APO": "reflection",
    "APOSum": "reflection",
    "PE2": "reflection",
    "OPRO": "history",
    "ABO": "behaviour",
    "RandomSearch": "random_search",
    "BruteForce": "selectors",
    "UCB": "selectors",
    "SuccessiveHalving": "selectors",
    "SuccessiveRejects": "selectors",
    "select": "selectors",
    "Result": "result",
    "choose_final": "result",
    "Plan": "plan",
    "SimTarget": "simulator",
    "SimOptimizer": "simulator",
    "sim_task": "sim_worlds",
    "word_task": "word_world",
    "WordModel": "word_model",
    "open_word_model": "word_model",
    "WordWriter": "word_writer",
    "parse_tags": "roles",
    "from_dspy_metric": "interop",
    "reflection_correctness": "diagnostics",
    "prior_bias": "diagnostics",
    "repetition": "diagnostics",
    "following_rate": "diagnostics",
    "one_step_success": "diagnostics",
    "paraphrase_sensitivity": "diagnostics",
}

__all__ = list(_HOME)


__getattr__ = lazy(__name__, _HOME)
