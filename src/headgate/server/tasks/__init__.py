"""Tasks: calls that go on after their request was answered (MCP extension `io.modelcontextprotocol/tasks`).

Source of the wire: github.com/modelcontextprotocol/ext-tasks, specification/draft/tasks.md (SEP-2663).
"""
