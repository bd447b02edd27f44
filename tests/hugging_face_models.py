"""Small models with tokenizers of their own kinds, as other people save them with transformers."""

import json
from pathlib import Path

import torch
from pretrained_models import POSITIONS, SIZES, TEXTS, build, save_byte_level, save_chinese
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2Tokenizer,
    LlamaTokenizer,
    Qwen2Tokenizer,
    RobertaConfig,
    RobertaForSequenceClassification,
)

CAUSAL = ("gpt2", "chinese", "llama", "qwen2", "opt", "gemma2")
CLASSIFIERS = ("bert", "roberta", "gpt2 classifier")
LABELS = {0: "very good", 1: "BAD", 2: "so-so"}
_NAMES = {"id2label": LABELS, "label2id": {name: index for index, name in LABELS.items()}}


def save(kind: str, folder: Path) -> Path:
    """Save a model of a kind with its tokenizer; returns the folder."""
    if kind == "chinese":
        save_chinese(folder, named=False)
    elif kind == "gpt2":
        _save_with(GPT2Tokenizer, folder, kind, "<|endoftext|>", spare_rows=7)
    elif kind == "qwen2":
        _save_with(Qwen2Tokenizer, folder, kind, "<|endoftext|>", spare_rows=7)
    elif kind == "opt":  # its texts begin with the token that ends them
        _save_with(GPT2Tokenizer, folder, kind, "</s>", add_bos_token=True)
    elif kind == "llama":
        tokenizer = _sentence_pieces()
        build("llama", len(tokenizer) + 3).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        _change(folder / "generation_config.json", eos_token_id=[2, 5])
    elif kind == "gemma2":
        tokenizer = _sentence_pieces()
        torch.manual_seed(0)
        config = Gemma2Config(
            vocab_size=len(tokenizer), intermediate_size=48, head_dim=8, num_key_value_heads=2,
            max_position_embeddings=POSITIONS, sliding_window=8, final_logit_softcapping=2.0,
            bos_token_id=1, eos_token_id=2, pad_token_id=0, initializer_range=0.3, **SIZES,
        )  # fmt: skip
        Gemma2ForCausalLM(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    elif kind == "gpt2 classifier":
        save_byte_level(folder)
        size = json.loads((folder / "config.json").read_text())["vocab_size"]
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=size, n_positions=POSITIONS, n_embd=32, n_layer=2, n_head=4,
            bos_token_id=0, eos_token_id=0, initializer_range=0.5, **_NAMES,
        )  # fmt: skip
        GPT2ForSequenceClassification(config).save_pretrained(folder)
    elif kind == "bert":
        save_bert(folder, BertForSequenceClassification, **_NAMES)
    elif kind == "roberta":
        save_byte_level(folder)
        size = json.loads((folder / "config.json").read_text())["vocab_size"]
        torch.manual_seed(0)
        config = RobertaConfig(vocab_size=size, intermediate_size=48, type_vocab_size=1,
                               max_position_embeddings=POSITIONS, pad_token_id=1,
                               initializer_range=0.5, **SIZES, **_NAMES)  # fmt: skip
        RobertaForSequenceClassification(config).save_pretrained(folder)
        _change(folder / "tokenizer_config.json", model_max_length=POSITIONS - 2)
    return folder


def save_bert(folder: Path, architecture: type, **values) -> None:
    """A BERT of some architecture with a WordPiece tokenizer."""
    letters = sorted(set("".join(TEXTS).replace(" ", "")))
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    tokens += [*(f"##{letter}" for letter in letters), "the", "cat", "dog", "house"]
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(tokens), intermediate_size=48, initializer_range=0.5,
                        max_position_embeddings=POSITIONS, **SIZES, **values)  # fmt: skip
    architecture(config).save_pretrained(folder)
    words = folder / "vocab.txt"
    words.write_text("\n".join(tokens) + "\n")
    BertTokenizer(str(words), model_max_length=POSITIONS - 8).save_pretrained(folder)


def _save_with(
    tokenizer_class: type, folder: Path, kind: str, end: str, spare_rows: int = 0, **options
) -> None:
    """A causal model with a byte-level tokenizer of a class of transformers."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary, merges = _learned(backend, [end], initial_alphabet=alphabet)
    marks = dict.fromkeys(("bos_token", "eos_token", "unk_token"), end)
    tokenizer = tokenizer_class(vocab=vocabulary, merges=merges, **marks, **options)
    build(kind, len(tokenizer) + spare_rows).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _sentence_pieces() -> LlamaTokenizer:
    """A tokenizer as sentencepiece makes it, whose texts begin with <s>."""
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    vocabulary, merges = _learned(backend, ["<unk>", "<s>", "</s>"])
    return LlamaTokenizer(vocab=vocabulary, merges=merges, add_bos_token=True)


def _learned(backend: Tokenizer, special: list[str], **options) -> tuple[dict, list]:
    """The vocabulary and the merges of a byte pair encoding of the texts."""
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, show_progress=False, **options
    )
    backend.train_from_iterator(TEXTS, trainer)
    model = json.loads(backend.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def _change(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
