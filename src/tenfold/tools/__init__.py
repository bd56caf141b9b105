"""Floor 3: tool use that first decides. Registry, retrievers, samples, agent, sandbox, metrics (DEER, arXiv 2402.16696).

Names are loaded when first used: importing the package costs nothing.
"""

from tenfold.core.lazy import lazy

_HOME = {
    "Tool": "tool",
    "ToolRegistry": "tool",
    "UnknownToolError": "tool",
    "Issue": "schemas",
    "parse_call": "calls",
    "render_call": "calls",
    "ast_match": "ast_match",
    "load": "data",
    "Candidate": "samples",
    "DecisionSample": "samples",
    "ToolExamples": "samples",
    "build_samples": "samples",
    "read_samples": "samples",
    "write_samples": "samples",
    "ToolSampler": "sampler",
    "render": "render",
    "parse": "render",
    "Retriever": "retrieval",
    "BM25": "retrieval",
    "Embedding": "retrieval",
    "Hybrid": "retrieval",
    "retrieval_report": "retrieval",
    "ToolArgumentError": "arguments",
    "parse_arguments": "arguments",
    "SamplePipeline": "pipeline",
    "DecisionAgent": "agent",
    "Policy": "agent",
    "Trace": "trace",
    "Decision": "trace",
    "Candidates": "trace",
    "Call": "trace",
    "ToolResult": "trace",
    "Answer": "trace",
    "Error": "trace",
    "RepeatedCallError": "agent",
    "IncompleteGeneration": "render",
    "replay": "replay",
    "Executor": "executor",
    "LocalExecutor": "executor",
    "SubprocessExecutor": "executor",
    "McpSession": "mcp_client",
    "ConstrainedDecoder": "constrained",
    "evaluate_decisions": "metrics",
    "to_sft": "sft",
    "sft_loss": "sft",
}

__all__ = list(_HOME)

__getattr__ = lazy(__name__, _HOME)
