"""The papers' tables run again, beside their numbers: recipes in, results and verdicts out."""
