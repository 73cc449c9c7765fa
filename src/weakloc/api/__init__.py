"""The verbs of the command line as functions: each wires the stages and holds no algorithm."""
