"""A toolkit for training small causal GPTs on rows of tokens.

Its rooms; each imports only itself and rooms before it in this list:

    exit_codes, errors, console    what a command ends with, what a person reads
    files                          read with distrust, written whole
    command, options               the frame of a script; its options, from config.yaml and flags
    charts, tokens, rows           pictures; vocabularies and codebooks; rows read and batched
    model, decoding, evaluation    the network; sampling from it; figures of its answers
    checks                         what is wrong with the data: leaks, baselines
    preparation                    raw data to rows
    training                       a run: updates, checkpoints, best model
    inference                      use of a trained model
    benchmark                      how fast all of this is

checks, preparation, training and inference never import one another, and nothing imports a script
(tests/test_architecture.py).
"""
