"""Live push: streams on which clients hear that rows or lists have changed (MCP 2026-07-28, `subscriptions/listen`)."""
