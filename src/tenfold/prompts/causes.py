"""Kinds of errors that reflections speak of, found by their words: one list for tasks that bring none of their own."""

from tenfold.prompts.task import Cause

GENERAL = (
    Cause("format", r"\bformat|\bfinal answer\b|\boutput\b|\blabel|options?\b"),
    Cause("steps", r"step[- ]by[- ]step|\bsteps?\b|break (it )?down|reasoning process|intermediate"),
    Cause("calculation", r"calculat|arithmetic|\bcount|\bsum\b|\bmath"),
    Cause("attention", r"overlook|ignor|\bmiss(ed|es|ing)?\b|attention|careful|\bread"),
    Cause("clarity", r"\bclear|ambigu|vague|specific|detail"),
    Cause("knowledge", r"knowledge|understand|context|familiar"),
)
