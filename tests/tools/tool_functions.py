"""Functions that tests run as tools, here or in a process of their own."""

from __future__ import annotations

import asyncio


def add(a: int, b: int = 1) -> int:
    """Add two numbers."""
    return a + b


def execute(code: str) -> str:
    """Run Python code and give the variable `result`."""
    scope: dict = {}
    exec(code, scope)
    return str(scope.get("result", "ran"))


async def wait(seconds: float) -> str:
    """Wait for some seconds."""
    await asyncio.sleep(seconds)
    return "waited"
