"""Tests of the rules, the doors and the reports."""
