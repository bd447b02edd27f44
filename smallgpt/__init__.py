"""A toolkit for training small causal GPTs on rows of tokens.

Its rooms. Each imports only itself and rooms before it in this list; checks, preparation, training
and inference never import one another; nothing imports a script (tests/test_architecture.py).

    exit_codes, distribution       exit codes of the commands; version and extras
    errors, console                errors for the user, terminal output
    files                          safe reading of untrusted files, atomic writing
    command, processes, options    entry point of a script; processes that train one model; options
    charts, tokens, rows           charts; vocabularies and codebooks; rows read and batched
    inputs                         raw inputs read: images, tables, records
    model, decoding, graphs        the network; sampling; ONNX graphs of it
    engines                        torch, ONNX Runtime, OpenVINO: what computes a trained model
    evaluation                     metrics and calibration
    checks                         data checks: leaks, baselines
    preparation                    raw data to rows
    training                       training loop, checkpoints, best model
    inference                      generation, classification, evaluation
    export                         models for other programs: ONNX, GGUF, a page, the hub
    serving                        the server
    benchmark                      speed
"""
