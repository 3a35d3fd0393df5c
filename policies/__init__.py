"""Security and cost rules as code."""
