"""Hostile files and requests for everything that reads: `python -m tests.fuzz --help`.

grammars     a random generator in, a valid input of one format out, as trees
trees        a tree in, a slightly wrong one out
parts        trees in, the bytes of files out
readers      the files of one input in a folder, what the package makes of them
arena        readers in processes with limits; what came of each input
shrinking    an input that ends badly in, a smaller one that ends in the same way out
"""
