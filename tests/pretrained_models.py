"""Small pretrained-like checkpoints as transformers writes them, and runs that start from one."""

import dataclasses
import json
from pathlib import Path

import torch
from plain_settings import plain_settings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    BertTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from smallgpt.options.training import TrainSettings
from smallgpt.tokens.text_tokenizer import TextTokenizer

POSITIONS = 48
TEXTS = ["the cat sat on the mat", "a dog ran to the house", "the house and the dog"] * 4
CHINESE = ["今天天气很好", "房间很小服务不好", "书很好看"]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
KINDS = ("gpt2", "llama", "llama tied", "opt", "qwen2")


def build(kind: str, size: int) -> torch.nn.Module:
    """A model of an architecture with `size` tokens, its weights far from any symmetry."""
    torch.manual_seed(0)
    if kind == "gpt2":
        config = GPT2Config(vocab_size=size, n_positions=POSITIONS, n_embd=32, n_layer=2, n_head=4,
                            bos_token_id=0, eos_token_id=0)  # fmt: skip
        model = GPT2LMHeadModel(config)
    elif kind.startswith("llama"):
        model = LlamaForCausalLM(
            LlamaConfig(vocab_size=size, intermediate_size=48, max_position_embeddings=POSITIONS,
                        num_key_value_heads=2, tie_word_embeddings=kind == "llama tied",
                        bos_token_id=0, eos_token_id=0, pad_token_id=3, **SIZES)
        )  # fmt: skip
    elif kind == "opt":
        model = OPTForCausalLM(
            OPTConfig(vocab_size=size, ffn_dim=48, max_position_embeddings=POSITIONS,
                      word_embed_proj_dim=32, bos_token_id=0, eos_token_id=0, **SIZES)
        )  # fmt: skip
    else:
        model = Qwen2ForCausalLM(
            Qwen2Config(vocab_size=size, intermediate_size=48, max_position_embeddings=POSITIONS,
                        num_key_value_heads=2, bos_token_id=0, eos_token_id=0, **SIZES)
        )  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


def save_byte_level(folder: Path, kind: str = "gpt2", spare_rows: int = 0) -> torch.nn.Module:
    """A checkpoint with a byte-level tokenizer whose one special token is <|endoftext|>."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|endoftext|>", unk_token="<|endoftext|>"
    )
    model = build(kind, len(tokenizer) + spare_rows)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def save_chinese(folder: Path, named: bool = True) -> torch.nn.Module:
    """A GPT-2 with a BertTokenizer, which its configuration names or does not."""
    letters = sorted(set("".join(CHINESE)))
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    model = build("gpt2", len(tokens))
    model.config.tokenizer_class = "BertTokenizer" if named else None
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    assert BertTokenizer.from_pretrained(folder).sep_token_id == 3
    return model


def write_data(folder: Path, checkpoint: Path, texts: list[str] = TEXTS) -> tuple[Path, Path]:
    """Labelled rows and the vocabulary that `prepare_data.py text --tokenizer` makes of them."""
    special = ["<PAD>", "<UNK>", "<CLS>", "<EOS>", "<CLS_no>", "<CLS_yes>"]
    tokenizer = TextTokenizer.pretrained(str(checkpoint), special)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
    ids = {token: index for index, token in enumerate(tokenizer.tokens)}
    vocab = folder / "vocab.json"
    vocab.write_text(json.dumps(ids), encoding="utf-8")
    rows = folder / "train.jsonl"
    with open(rows, "w", encoding="utf-8") as handle:
        for number in range(24):
            text = f"{texts[number % len(texts)]} {texts[number * 5 % len(texts)]}{number % 7}"
            record = {"text": text, "label": ("no", "yes")[number % 2]}
            handle.write(json.dumps(record, ensure_ascii=False) + "\n")
    return rows, vocab


def train_settings(folder: Path, checkpoint: Path, **values) -> TrainSettings:
    """Settings of a short run that starts from `checkpoint`."""
    rows, vocab = write_data(folder / "data", checkpoint)
    base = plain_settings(
        data_path=str(rows), vocab_path=str(vocab), output_dir=str(folder / "run"),
        init_from=str(checkpoint), max_length=POSITIONS, num_epochs=2, batch_size=8,
        learning_rate=3e-3, log_steps=1, precision="fp32", device="cpu",
    )  # fmt: skip
    return dataclasses.replace(base, **values)
