"""A user's memory as an MCP server: what programs such as Claude Desktop and Cursor can do with it"""
