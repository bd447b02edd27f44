"""Start from a pretrained model: its shape, its weights, its embeddings by token name.

    settings = with_checkpoint_shape(settings)                  # what --init_from decides
    start = load_checkpoint_model(settings, vocabulary, print)  # start.model knows the vocabulary

A checkpoint is a model folder of ours or of transformers, or a name on the Hugging Face hub. Its
weights are read from safetensors alone, and no code of its own is run.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from classifier_head import (
    add_hidden_layer,
    check_padding,
    classifier_class_of,
    draw_head,
    name_labels,
)
from console import UserError, command_hint, plural
from hub import folder_of, hub_errors
from input_files import panics_told, read_bytes, shown
from settings import MOST_LAYERS, MOST_POSITIONS, MOST_WIDTH, TrainSettings
from text_tokenizer import MOST_TOKENS, TextTokenizer, load_pretrained_tokenizer
from vocabulary import EOS, PAD, UNK, Vocabulary

PICKLED_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt", "*.h5", "*.msgpack")
CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"
# 10,000 labels of a head, of 1,000 letters each, stand in it twice, a letter in up to six bytes.
MOST_CONFIG_BYTES = 2**27
# What a configuration could choose beside the shape: code, its own or a kernel of another
# repository, files, kinds of numbers. Keys of these names are passed over at every level; of those
# that begin with an underscore OPT's alone shapes a model.
_NEVER_FOLLOWED = re.compile(
    r"_(?!remove_final_layer_norm$).*|.*implementation.*|auto_map|.*kernel_config.*|.*quantization.*|(torch_)?dtype|"
    r"name_or_path|trust_remote_code|transformers_version|architectures"
)
_OWN_KINDS_OF_KEYS = ("id2label", "label2id")  # the keys of these are labels
# Of what transformers' base class defines, a configuration may only say these beside its fields.
_ALSO_TAKEN = ("num_labels", "rope_scaling", "rope_theta", "per_layer_config")
# What configurations call dropout of embeddings and residuals, and that of attention weights.
_DROPOUTS = (
    "dropout",
    "resid_pdrop",
    "embd_pdrop",
    "embd_dropout",
    "resid_dropout",
    "embed_dropout",
    "hidden_dropout",
    "hidden_dropout_prob",
)
_ATTENTION_DROPOUTS = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob")
# Vectors of new tokens lie around the mean of all, at this share of their spread: equal ones
# would stay equal where the head is tied.
_NOISE = 0.1
_FEW_KNOWN = 0.5  # share of the vocabulary below which the tokenizers must differ
_NAMES_SHOWN = 5
_NEVER_LOADED = "weights as a pickle can run any code and are never loaded; convert them to"


@dataclass(frozen=True)
class Start:
    """A pretrained model made ready for a vocabulary.

    Attributes:
        model: fp32, with one embedding for each token of the vocabulary.
        new_ids: tokens that the checkpoint does not have under their name.
        fingerprint: SHA-256 of the checkpoint's weights and tokens, before anything was changed.
        fresh: names of the parameters that the checkpoint did not have: a head that names labels.
    """

    model: torch.nn.Module
    new_ids: list[int]
    fingerprint: str
    fresh: frozenset[str] = frozenset()


# ------------------------------------------------------------------------------- the shape


def with_checkpoint_shape(settings: TrainSettings) -> TrainSettings:
    """The settings with the shape of the checkpoint that `init_from` names.

    Raises:
        UserError: no such checkpoint, weights that are not safetensors, no causal model, or
            too few positions for max_length.
    """
    config = _read_config(settings.init_from, settings.classifier)
    positions = positions_of(config)
    if positions is not None and settings.max_length > positions:
        raise UserError(
            f"max_length is {settings.max_length} but {settings.init_from} has {positions} "
            f"positions: give --max_length {positions} or less"
        )
    return replace(
        settings,
        preset="none",
        n_layer=config.num_hidden_layers,
        n_head=getattr(config, "num_attention_heads", 1),  # some have no attention
        n_embd=config.hidden_size,
        n_positions=positions or settings.max_length,
    )


def positions_of(config: Any) -> int | None:
    """Positions that a model of this configuration has; None where there is no limit."""
    return getattr(config, "max_position_embeddings", None)


def refuse_pickles(path: Path) -> None:
    """Refuse weights that could run code when they are loaded.

    Raises:
        UserError: `path` is such a file, or a folder with such weights and no others.
    """
    if path.is_file():
        if any(path.match(pattern) for pattern in PICKLED_WEIGHTS):
            raise UserError(f"{path}: {_NEVER_LOADED} model.safetensors in a folder")
        raise UserError(f"{path} is a file: name the model's folder")
    if path.is_dir() and not any(path.glob("*.safetensors")):
        pickled = next((found for name in PICKLED_WEIGHTS for found in path.glob(name)), None)
        if pickled is not None:
            raise UserError(f"{pickled}: {_NEVER_LOADED} model.safetensors")


def _read_config(name: str, classifier: str) -> Any:
    """The configuration of a checkpoint, once all that can be told without its weights is fine.

    Args:
        name: of the checkpoint.
        classifier: "head" takes encoders as well.
    """
    refuse_pickles(Path(name))
    folder = folder_of(name, "model")
    refuse_pickles(folder)
    if (folder / "best_model").is_dir() and not (folder / CONFIG).exists():
        raise UserError(f"{name}: this is a run; name its model: {folder / 'best_model'}")
    if (folder / ADAPTER_CONFIG).exists():
        raise UserError(
            f"{name}: this is an adapter, not a whole model; train it again with --merge_lora"
        )
    if not (folder / CONFIG).exists():
        raise UserError(f"{name}: no model in this folder: it has no {CONFIG}")
    read_bytes(folder / CONFIG, MOST_CONFIG_BYTES)  # a plain file, and no bomb
    with hub_errors(name, "model"), quiet():
        from transformers import PreTrainedConfig

        values, _ = PreTrainedConfig.get_config_dict(folder)
        if "model_type" not in values:
            raise UserError(f"{name}: its {CONFIG} names no model_type")
        if values.get("quantization_config") is not None:
            raise UserError(f"{name}: its weights are quantized; start from the unquantized model")
        config = config_of(values)
    try:
        model_class_of(config, classifier)
    except ValueError as error:
        raise UserError(f"{name}: {error}") from None
    if not hasattr(config, "vocab_size"):
        raise UserError(f"{name}: {config.model_type} is made of several models, not of text alone")
    return config


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' own warnings back: what matters is told in one line."""
    from transformers import logging

    before = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


# ------------------------------------------------------------------------------- the model


def load_checkpoint_model(
    settings: TrainSettings, vocabulary: Vocabulary, say: Callable[[str], None]
) -> Start:
    """The model that `settings.init_from` names, with the embeddings of `vocabulary`.

    With `classifier head` it names labels; a head that it has for the very same ones is kept.

    Args:
        settings: where from, dropout, and the seed of new embeddings.
        vocabulary: its tokens become the model's.
        say: called with each line for a person.

    Raises:
        UserError: the model or its tokenizer cannot be loaded, weights are missing, or it
            computes something else than a causal model with a linear head.
    """
    name, by_head = settings.init_from, settings.classifier == "head"
    config = _read_config(name, settings.classifier)
    set_dropout(config, settings)
    same_labels = by_head and name_labels(config, vocabulary)
    torch.manual_seed(settings.seed)  # of what the checkpoint lacks
    with (
        hub_errors(name, "model"),
        panics_told(name, "its weights cannot be read"),
        quiet(),
    ):
        from transformers import GenerationConfig

        # Not through AutoModel..., which would follow an adapter to its base.
        model, info = model_class_of(config, settings.classifier).from_pretrained(
            folder_of(name, "model"),
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            generation_config=GenerationConfig(),  # ours is made in adopt_vocabulary
            output_loading_info=True,
            ignore_mismatched_sizes=by_head,  # a head for other labels
        )
    model.eval()
    missing = set(info["missing_keys"])
    if by_head:
        missing |= {entry[0] for entry in info["mismatched_keys"]}
        fresh = {key for key in missing if _is_of_head(model, key)}
    else:
        fresh = set()
        with quiet():
            _check_computation(model, name)
    if missing - fresh:
        first, *rest = sorted(missing - fresh)
        more = f" and {plural(len(rest), 'more tensor')}" if rest else ""
        raise UserError(f"{name}: its weights lack {first}{more}")
    unused = sorted(info["unexpected_keys"])
    if unused:  # the head of another task
        say(f"{plural(len(unused), 'tensor')} of {name} not used here, the first: {unused[0]}")
    tokens, roles = _tokens_of(name)
    fingerprint = _fingerprint(model, tokens, fresh)
    if by_head:
        fresh |= _prepare_head(model, settings, fresh, same_labels)
        fresh &= {key for key, _ in model.named_parameters()}  # a hidden layer replaces some
    new_ids = carry_over(model, tokens, roles, vocabulary, settings.seed, name, say)
    adopt_vocabulary(model, vocabulary)
    if by_head:
        check_padding(model.eval(), name)
        if fresh:
            say(f"fresh, since {name} does not have it: {', '.join(sorted(fresh))}")
    torch.manual_seed(settings.seed)
    return Start(model.train(), new_ids, fingerprint, frozenset(fresh))


def _is_of_head(model: torch.nn.Module, name: str) -> bool:
    """Whether a parameter may be missing: the head's, or what an encoder pools its states with."""
    return not name.startswith(f"{model.base_model_prefix}.") or ".pooler." in name


def _prepare_head(
    model: torch.nn.Module, settings: TrainSettings, fresh: set[str], same_labels: bool
) -> set[str]:
    """Give a loaded model the head that the settings ask for; returns what of it is fresh."""
    before = {id(parameter) for parameter in model.parameters()}
    of_head = {name for name, _ in model.named_parameters() if _is_of_head(model, name)}
    of_head = {name for name in of_head if ".pooler." not in name}
    if settings.classifier_hidden is not None:
        add_hidden_layer(model, settings.classifier_hidden, settings.dropout)
        return {name for name, p in model.named_parameters() if id(p) not in before}
    if not same_labels and not of_head <= fresh:
        draw_head(model)
        return of_head
    return set()


def build_from_config(
    values: Mapping[str, Any], settings: TrainSettings, vocabulary: Vocabulary
) -> torch.nn.Module:
    """The model of a run that began from a checkpoint, its weights still to be put back.

    Args:
        values: its configuration, as the run stored it.
        settings: dropout, which belongs to the run.
        vocabulary: of the run.
    """
    config = config_of(values)
    set_dropout(config, settings)
    model = model_class_of(config, settings.classifier)(config)
    if settings.classifier_hidden is not None:
        add_hidden_layer(model, settings.classifier_hidden, settings.dropout)
    adopt_vocabulary(model, vocabulary)
    torch.manual_seed(settings.seed)
    return model


def config_of(values: Mapping[str, Any]) -> Any:
    """A configuration object of the values of a config.json: of what shapes the model alone.

    No code but transformers' is run, and nothing in it chooses which: how attention is computed
    is transformers' default.

    Raises:
        ValueError, TypeError and others: the values are wrong, or far beyond any small model, so
            that its mere modules would take all memory or time; transformers raises many kinds.
    """
    from transformers import CONFIG_MAPPING

    kind = values.get("model_type", "gpt2")
    if kind not in CONFIG_MAPPING:
        raise ValueError(f"model_type {shown(kind)} is not known to transformers")
    config_class = CONFIG_MAPPING[kind]
    fields = {*getattr(config_class, "__dataclass_fields__", ()), *config_class.attribute_map}
    taken = {
        name: value
        for name, value in _without_foreign_choices(values).items()
        # Other names are older ones of fields, or mean nothing; but not methods and properties.
        if name in fields or name in _ALSO_TAKEN or not hasattr(config_class, name)
    }
    taken.pop("model_type", None)
    config = config_class(**taken)
    for name, most in (
        ("num_hidden_layers", MOST_LAYERS),
        ("hidden_size", MOST_WIDTH),
        ("max_position_embeddings", MOST_POSITIONS),
        ("vocab_size", 2 * MOST_TOKENS),  # embeddings may be filled up to a round number
    ):
        value = getattr(config, name, None)
        if value is not None and not (type(value) is int and 1 <= value <= most):
            raise ValueError(f"{name} is {shown(value)}, expected 1 to {most:,}")
    return config


def _without_foreign_choices(value: Any) -> Any:
    """A value of a configuration without the keys that shape no model, at every level."""
    if isinstance(value, list):
        return [_without_foreign_choices(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"__float__"}:  # so transformers writes infinity, which is no JSON
        return float(value["__float__"])
    return {
        name: item if name in _OWN_KINDS_OF_KEYS else _without_foreign_choices(item)
        for name, item in value.items()
        if not _NEVER_FOLLOWED.fullmatch(name)
    }


def model_class_of(config: Any, classifier: str = "label_token") -> type[torch.nn.Module]:
    """The class of the causal model of a configuration, or of the one with a head for labels.

    Raises:
        ValueError: there is none.
    """
    if classifier == "head":
        return classifier_class_of(config)
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(f"{config.model_type} is no causal language model")
    return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]


def set_dropout(config: Any, settings: TrainSettings) -> None:
    """Give a configuration the settings' dropout, by whatever names it knows it."""
    for names, rate in (
        (_DROPOUTS, settings.dropout),
        (_ATTENTION_DROPOUTS, settings.attention_dropout),
    ):
        for name in names:
            if isinstance(getattr(config, name, None), (int, float)):
                setattr(config, name, rate)


def adopt_vocabulary(model: torch.nn.Module, vocabulary: Vocabulary) -> None:
    """Name the ids of `vocabulary` in the configuration, and drop what belonged to another one."""
    from transformers import GenerationConfig

    config = model.config
    end_id = vocabulary.eos_id if vocabulary.eos_id is not None else vocabulary.pad_id
    config.bos_token_id = config.eos_token_id = end_id
    config.pad_token_id = vocabulary.pad_id
    for name in ("tokenizer_class", "task_specific_params"):
        if getattr(config, name, None) is not None:
            setattr(config, name, None)
    if model.can_generate():
        model.generation_config = GenerationConfig.from_model_config(config)
    elif getattr(config, "use_cache", False):
        config.use_cache = False  # nothing is continued
    # The old padding token may be any token now, and torch gives its row no gradient.
    model.get_input_embeddings().padding_idx = None


@torch.inference_mode()
def _check_computation(model: torch.nn.Module, name: str) -> None:
    """Try that tokens see only what is before them, and that the head is a linear map.

    Raises:
        UserError: they do not, or it is not.
    """
    head = model.get_output_embeddings()
    ids_1xT = torch.arange(4)[None] % model.config.vocab_size
    all_1xTxE = model.base_model(ids_1xT, use_cache=False).last_hidden_state
    first_1xTxE = model.base_model(ids_1xT[:, :3], use_cache=False).last_hidden_state
    if not torch.allclose(all_1xTxE[:, :3], first_1xTxE, rtol=1e-3, atol=1e-4):
        raise UserError(
            f"{name}: {model.config.model_type} reads a text from both sides (an encoder); only "
            f"causal models continue rows (for labels: --classifier head)"
        )
    logits_1xTxV = model(ids_1xT, use_cache=False).logits
    if head is None or not torch.allclose(head(all_1xTxE), logits_1xTxV, rtol=1e-3, atol=1e-4):
        raise UserError(
            f"{name}: {model.config.model_type} does more than a linear map to get its logits, "
            f"which is not supported here"
        )


def _fingerprint(model: torch.nn.Module, tokens: Sequence[str], fresh: Collection[str]) -> str:
    digest = hashlib.sha256("\n".join(tokens).encode())
    for name, tensor in model.state_dict().items():
        if name in fresh:
            continue
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


# ------------------------------------------------------------------------------- the tokens


def _tokens_of(name: str) -> tuple[list[str], dict[str, int | None]]:
    """The token of each id of a checkpoint, and its ids for our special tokens.

    Raises:
        UserError: its tokenizer cannot be loaded.
    """
    folder = folder_of(name, "model")
    if (folder / "settings.yaml").is_file() and (folder / "vocab.json").is_file():
        return Vocabulary.load(folder / "vocab.json").tokens, {}
    tokens = TextTokenizer.pretrained(name, ()).tokens
    with quiet():
        found = load_pretrained_tokenizer(name)
    # BERT's tokenizers end a text with [SEP].
    end = found.eos_token_id if found.eos_token_id is not None else found.sep_token_id
    return tokens, {EOS: end, UNK: found.unk_token_id, PAD: found.pad_token_id}


@torch.no_grad()
def carry_over(
    model: torch.nn.Module,
    tokens: Sequence[str],
    roles: Mapping[str, int | None],
    vocabulary: Vocabulary,
    seed: int,
    name: str,
    say: Callable[[str], None],
) -> list[int]:
    """Give a model the tokens of `vocabulary`, and those it knew their old embeddings.

    Args:
        model: its embedding, head and the head's bias change; tied ones stay tied.
        tokens: the token of each of its ids.
        roles: its own ids for <EOS>, <UNK> and <PAD>, from which ours start where it has none
            of that name.
        vocabulary: the tokens it is to have.
        seed: of the noise that new tokens start with.
        name: of the checkpoint, for messages.
        say: called with each line for a person.

    Returns:
        The ids of `vocabulary` that the checkpoint does not have by name.
    """
    rows = len(model.get_input_embeddings().weight)
    tokens = tokens[:rows]  # a tokenizer may have more tokens than its model was trained on
    old_ids = {token: index for index, token in enumerate(tokens)}
    source_V = [old_ids.get(token, -1) for token in vocabulary.tokens]
    new_ids = [index for index, source in enumerate(source_V) if source < 0]
    likened = []
    for index in new_ids:
        token = vocabulary.tokens[index]
        role = roles.get(token)
        if role is not None and role < len(tokens):
            source_V[index] = role
            likened.append(f"{token} starts as {tokens[role]}")
    fresh = [vocabulary.tokens[index] for index in new_ids if source_V[index] < 0]

    input_map, head = model.get_input_embeddings(), model.get_output_embeddings()
    generator = torch.Generator().manual_seed(seed)
    wanted = torch.tensor(source_V)
    old = [input_map.weight.clone()]
    # A model that only names labels has no head of tokens.
    tied = head is None or head.weight is input_map.weight
    bias = getattr(head, "bias", None)
    if not tied:
        old.append(head.weight.clone())
    if bias is not None:
        old.append(bias[:, None].clone())
    made = []
    for old_VxE in old:
        new_VxE = old_VxE[wanted.clamp(min=0)]
        noise_VxE = (
            torch.randn(new_VxE.shape, generator=generator) * old_VxE.std(0, correction=0) * _NOISE
        )
        fresh_V = wanted < 0
        new_VxE[fresh_V] = (old_VxE.mean(0) + noise_VxE)[fresh_V]
        made.append(new_VxE)
    with quiet():
        model.resize_token_embeddings(len(vocabulary), mean_resizing=False)
    input_map, head = model.get_input_embeddings(), model.get_output_embeddings()
    input_map.weight.copy_(made.pop(0))
    if not tied:
        head.weight.copy_(made.pop(0))
    if bias is not None:
        head.bias.copy_(made.pop(0)[:, 0])

    known = len(vocabulary) - len(new_ids)
    parts = [
        f"tokens: {known:,} of {len(vocabulary):,} carried over by name from {name}",
        *likened,
        f"{len(fresh):,} new" + (f" ({_some(fresh)})" if fresh else ""),
        f"{len(tokens) - known:,} of the checkpoint's dropped",
    ]
    say("; ".join(parts))
    if known < _FEW_KNOWN * len(vocabulary):
        say(
            f"warning: most tokens are unknown to {name}: its tokenizer is another one, and what "
            f"it learned of its tokens is lost; prepare the data with its own: "
            + command_hint("prepare_data.py", "text", "--tokenizer", name)
        )
    return new_ids


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMES_SHOWN])
    return shown + (", ..." if len(names) > _NAMES_SHOWN else "")
