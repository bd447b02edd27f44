"""Gradients of the training objective: without padding on a CPU, in static shapes on a GPU.

    step = make_step(model, rows, settings, precision, scaler, print)
    nll = step.add_gradients([row_numbers])        # nats, summed; parameters' .grad has grown
    step.clear_gradients()

`TokenStep` computes what the rows hold and nothing else. On a GPU the kernels of a small model
take less time than starting them one by one, so `StaticStep` gives all batches one of a few shapes,
takes them from rows that lie on the card, and replays forward and backward pass as a CUDA graph; a
long run compiles them first.

Sizes in names: B rows of a batch, T inputs of its longest row, N tokens of all rows of the data
set, M inputs of a batch (B x T, or fewer without padding), E embedding width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from smallgpt.console import progress_bar
from smallgpt.model.build import count_parameters
from smallgpt.model.cpu_forward import is_gpt2
from smallgpt.model.forward import class_logits, head_inputs, hidden_states, padded_hidden_states
from smallgpt.model.hardware import Precision
from smallgpt.model.head import head_name, is_plain
from smallgpt.model.packed_rows import PackedRows
from smallgpt.options.training import TrainSettings
from smallgpt.rows.batching import batches_by_length
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.rows.label_tail import TAIL_LENGTH
from smallgpt.training.objective import Objective

# Widths that batches are padded to; each has a graph of its own, and is compiled by itself.
_MOST_WIDTHS = 8
_NARROWEST = 32
# Runs of a shape before its graph is recorded: kernels choose their algorithms and memory is set
# aside in the first ones.
_RUNS_BEFORE_GRAPH = 2
# Operations from which a run is compiled on a GPU: five minutes at 100 TFLOP/s. Not measured: an
# estimate from a minute of compiling.
_COMPILED_FROM = 3e16
# Of a frozen backbone: rows that go through it at once, and numbers (fp32) that are kept at most.
_ROWS_AT_ONCE, _MOST_KEPT = 32, 2**29


def make_step(
    model: torch.nn.Module,
    rows: TokenLabelDataset,
    settings: TrainSettings,
    precision: Precision,
    scaler: torch.amp.GradScaler,
    say: Callable[[str], None],
) -> TokenStep | StaticStep | HeadStep:
    """The way to compute gradients that suits the model's device.

    Args:
        model: its dropout is on.
        rows: all rows to learn from; for a head that names labels without their tails.
        settings: weights of the objective, batch size, whether to compile.
        precision: of the matrix products.
        scaler: of the loss, enabled for fp16 alone.
        say: called with a line for a person.
    """
    objective = Objective(model, rows, settings, precision)
    if settings.classifier == "head":
        step = HeadStep(objective, scaler, settings.freeze_backbone)
        if step.keep_inputs():
            say("the backbone is frozen: what the head reads of each training row is computed once")
        return step
    compiled = compiles(settings, objective.device, model, rows)
    # Graphs are for models whose every operation is known here: no adapters, and no random numbers
    # that are to be drawn a second time.
    known = is_gpt2(model) and all(p.requires_grad for p in model.parameters())
    records = objective.device.type == "cuda" and known
    if scaler.is_enabled() or settings.gradient_checkpointing or not (records or compiled):
        return TokenStep(objective, scaler)
    if compiled:
        say("torch.compile: the first steps of each row length take a minute or so longer")
    visited = round(len(rows) * rows.epoch_share)  # a batch never has more
    return StaticStep(objective, min(settings.batch_size, visited), compiled, say)


def compiles(
    settings: TrainSettings, device: torch.device, model: torch.nn.Module, rows: TokenLabelDataset
) -> bool:
    """Whether the run is to be compiled: as asked for, else only a long one on a GPU.

    It follows from the settings and the rows, so that a run and its repetition agree.
    """
    if settings.compile != "auto":
        return settings.compile == "on"
    tokens = float(rows.scored_counts @ rows.visits) * settings.num_epochs
    return device.type == "cuda" and 6 * count_parameters(model) * tokens > _COMPILED_FROM


# ------------------------------------------------------------------------------- packed


class TokenStep:
    """Rows of a batch lie after one another: no position is computed that holds no token."""

    compiled = False
    settling_runs = 1  # after which a step takes the time that it will take

    def __init__(self, objective: Objective, scaler: torch.amp.GradScaler):
        self.objective, self.scaler = objective, scaler

    def add_gradients(self, batches: list[np.ndarray]) -> Tensor:
        """Add the gradients of the weighted mean loss over all rows of `batches`.

        The mean is over the counted tokens of all batches together, so the split into batches
        does not matter.

        Args:
            batches: row numbers.

        Returns:
            Summed unweighted negative log likelihood (nats), on the device.
        """
        objective, device = self.objective, self.objective.device
        rows = objective.rows
        total_weight = objective.total_weight(batches)
        nll = torch.zeros((), device=device)
        for indices in batches:
            inputs_M, targets_M, counts_B = rows.shifted(indices)
            weights_M = np.ones(len(targets_M), np.float32)
            # The tail is <CLS> <CLS_k> <EOS>: its first place predicts the label.
            at_cls_B = np.cumsum(counts_B) + 1 - TAIL_LENGTH
            labelled_B = rows.classes_N[indices] >= 0
            weights_M[at_cls_B[labelled_B]] = objective.label_weights_N[indices][labelled_B]
            inputs_M, targets_M, weights_M = (
                torch.from_numpy(array_M).to(device) for array_M in (inputs_M, targets_M, weights_M)
            )
            hidden_MxE = hidden_states(
                objective.model,
                objective.drop_tokens(inputs_M),
                PackedRows(counts_B),
                objective.precision,
            )
            if rows.has_prompts:
                scored_M = torch.from_numpy(rows.scored(indices)).to(device)
                hidden_MxE, targets_M = hidden_MxE[scored_M], targets_M[scored_M]
                weights_M = weights_M[scored_M]
            nll_M = objective.nll(hidden_MxE, targets_M)
            self.scaler.scale((nll_M * weights_M).sum() / total_weight).backward()
            nll += nll_M.detach().sum()
        return nll

    def clear_gradients(self) -> None:
        """Forget what was added."""
        self.objective.model.zero_grad(set_to_none=True)


class HeadStep:
    """Each row, read without its tail, predicts its label by the model's head."""

    compiled = False
    settling_runs = 1

    def __init__(self, objective: Objective, scaler: torch.amp.GradScaler, frozen: bool):
        """
        Args:
            objective: its rows are without their tails, and all labelled.
            scaler: of the loss.
            frozen: whether the backbone stays as it is: then it computes without dropout, of
                tokens too, as it will when the model is used.
        """
        self.objective, self.scaler, self._frozen = objective, scaler, frozen
        self._inputs_NxE: Tensor | None = None

    def keep_inputs(self) -> bool:
        """Compute what the head reads of all rows, where that never changes; returns whether.

        In batches that follow from the rows alone, so that a resumed run finds the same bits.
        """
        objective, rows = self.objective, self.objective.rows
        model = objective.model
        if not (self._frozen and is_plain(model)) or rows.has_variants:
            return False
        if len(rows) * model.config.hidden_size > _MOST_KEPT:
            return False
        model.eval()
        with progress_bar("through the backbone", len(rows), "row") as bar:
            for indices in batches_by_length(rows, _ROWS_AT_ONCE):
                ids_N, lengths_B = rows.gather(indices)
                inputs_BxE = head_inputs(
                    model,
                    torch.from_numpy(ids_N).to(objective.device),
                    PackedRows(lengths_B),
                    objective.precision,
                )
                if self._inputs_NxE is None:
                    self._inputs_NxE = inputs_BxE.new_empty(len(rows), inputs_BxE.shape[1])
                self._inputs_NxE[torch.from_numpy(indices).to(objective.device)] = inputs_BxE
                bar.update(len(indices))
        model.train()
        return True

    def _logits(self, indices: np.ndarray) -> Tensor:
        """What the head says of rows, B x labels."""
        objective, model = self.objective, self.objective.model
        if self._inputs_NxE is not None:
            inputs_BxE = self._inputs_NxE[torch.from_numpy(indices).to(objective.device)]
            # Encoders drop out what goes into the head.
            dropout = getattr(model, "dropout", None)
            if isinstance(dropout, torch.nn.Module):
                inputs_BxE = dropout(inputs_BxE)
            return getattr(model, head_name(model))(inputs_BxE)
        ids_N, lengths_B = objective.rows.gather(indices)
        ids_N = torch.from_numpy(ids_N).to(objective.device)
        if not self._frozen:
            ids_N = objective.drop_tokens(ids_N)
        return class_logits(model, ids_N, PackedRows(lengths_B), objective.precision)

    def add_gradients(self, batches: list[np.ndarray]) -> Tensor:
        """Add the gradients of the mean over all rows of `batches` of the weighted label loss.

        The class weights are 1 on average over an epoch, so the mean is over rows: divided by the
        weights of these rows alone they would cancel, with one row altogether.

        Args:
            batches: row numbers.

        Returns:
            Summed unweighted negative log likelihood of the labels (nats), on the device.
        """
        objective, device = self.objective, self.objective.device
        rows, weights_L = objective.rows, objective.class_weights_L
        row_count = sum(map(len, batches))
        if self._frozen:
            objective.model.base_model.eval()
        nll = torch.zeros((), device=device)
        for indices in batches:
            logits_BxL = self._logits(indices)
            classes_B = rows.classes_N[indices].astype(np.int64)
            weights_B = torch.from_numpy(weights_L[classes_B].astype(np.float32)).to(device)
            nll_B = functional.cross_entropy(
                logits_BxL, torch.from_numpy(classes_B).to(device), reduction="none"
            )
            self.scaler.scale((nll_B * weights_B).sum() / row_count).backward()
            nll += nll_B.detach().sum()
        return nll

    def clear_gradients(self) -> None:
        """Forget what was added."""
        self.objective.model.zero_grad(set_to_none=True)


# ------------------------------------------------------------------------------- static


class RowsOnDevice:
    """All rows in the memory of a device, and batches of them in static shapes."""

    def __init__(self, rows: TokenLabelDataset, device: torch.device):
        def put(array: np.ndarray, dtype: type) -> Tensor:
            return torch.from_numpy(array.astype(dtype)).to(device)

        self._tokens_N = put(rows.tokens, np.int32)
        self._starts, self._lengths = put(rows.starts_N, np.int64), put(rows.lengths_N, np.int64)
        self._prompt_lengths = put(rows.prompt_lengths_N, np.int64)
        self._labelled = put(rows.classes_N >= 0, np.bool_)
        self._pad_id = rows.vocabulary.pad_id

    def batch(self, rows_B: Tensor, width: int, label_weights_N: Tensor) -> tuple[Tensor, ...]:
        """What `TokenLabelDataset.shifted` gives, as B x T matrices padded on the right.

        Args:
            rows_B: row numbers; -1 for a row that is padding altogether.
            width: T, at least the inputs of the longest row.
            label_weights_N: of the place that predicts the label, of all rows.

        Returns:
            inputs_BxT, targets_BxT, weights_BxT and whether a target counts_BxT: padding and
            prompts do not.
        """
        # Scalars are given so that they never travel to the device, which a graph would refuse.
        known_B = rows_B.clamp(min=0)
        lengths_Bx1 = (self._lengths[known_B] * (rows_B >= 0))[:, None]
        place_T = torch.arange(width + 1, device=rows_B.device)
        inside = place_T < lengths_Bx1
        places = (self._starts[known_B][:, None] + place_T).clamp(max=len(self._tokens_N) - 1)
        ids = self._tokens_N[places].long().masked_fill(~inside, self._pad_id)
        # The tail is <CLS> <CLS_k> <EOS>: its first place predicts the label.
        at_label = (place_T[:-1] == lengths_Bx1 - TAIL_LENGTH) & self._labelled[known_B][:, None]
        prompt_Bx1 = self._prompt_lengths[known_B][:, None]
        counts_BxT = inside[:, 1:] & (place_T[1:] >= prompt_Bx1)
        weights_BxT = (1 + at_label * (label_weights_N[known_B][:, None] - 1)) * counts_BxT
        return ids[:, :-1], ids[:, 1:], weights_BxT, counts_BxT


class StaticStep:
    """Batches of few shapes, computed by transformers' modules; on CUDA replayed as graphs.

    Nothing here waits for the device: what the host reads comes back from `add_gradients` as a
    tensor.
    """

    settling_runs = _RUNS_BEFORE_GRAPH + 1

    def __init__(
        self,
        objective: Objective,
        batch_size: int,
        compiled: bool,
        say: Callable[[str], None],
    ):
        """
        Args:
            objective: what is to be minimised.
            batch_size: most rows of a batch; smaller ones are filled with padding.
            compiled: compile with torch.compile, or go on without where that fails.
            say: called with a line for a person.
        """
        device = objective.device
        self.objective, self.compiled, self._say = objective, compiled, say
        self._rows = RowsOnDevice(objective.rows, device)
        weights_N = torch.from_numpy(objective.label_weights_N.astype(np.float32))
        self._label_weights_N = weights_N.to(device)
        self._longest = int(objective.rows.lengths_N.max()) - 1
        self._rows_B = torch.full((batch_size,), -1, device=device)
        self._total_weight = torch.ones((), device=device)
        self._nll = torch.zeros((), device=device)
        self._parameters = [p for p in objective.model.parameters() if p.requires_grad]
        # Graphs write into the same gradients for ever.
        for parameter in self._parameters:
            parameter.grad = torch.zeros_like(parameter)
        self._losses: Callable[..., Tensor] = self._plain_losses
        if compiled:
            # Each width of each run of this process is compiled by itself. Beyond its limit, which
            # is that of one run's widths, torch goes on without.
            limit = 64 * _MOST_WIDTHS
            torch._dynamo.config.cache_size_limit = limit
            torch._dynamo.config.accumulated_cache_size_limit = 2 * limit
            self._losses = torch.compile(self._plain_losses, dynamic=False)
        self._uses_graphs = device.type == "cuda"
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._runs: dict[int, int] = {}

    def add_gradients(self, batches: list[np.ndarray]) -> Tensor:
        """The same as `TokenStep.add_gradients`."""
        self._total_weight.fill_(self.objective.total_weight(batches))
        self._nll.zero_()
        for indices in batches:
            rows_B = torch.full(self._rows_B.shape, -1)
            rows_B[: len(indices)] = torch.from_numpy(indices)
            if self._rows_B.is_cuda:
                rows_B = rows_B.pin_memory()
            self._rows_B.copy_(rows_B, non_blocking=True)
            self._run(self.width_of(indices))
        return self._nll.clone()

    def clear_gradients(self) -> None:
        """Forget what was added; the tensors stay where they are."""
        torch._foreach_zero_([parameter.grad for parameter in self._parameters])

    def width_of(self, indices: np.ndarray) -> int:
        """T for these rows: the next of a few widths."""
        step = max(_NARROWEST, math.ceil(self._longest / _MOST_WIDTHS))
        inputs = int(self.objective.rows.lengths_N[indices].max()) - 1
        return min(math.ceil(inputs / step) * step, self._longest)

    def _run(self, width: int) -> None:
        """Forward and backward pass of the rows in `_rows_B`."""
        self._runs[width] = self._runs.get(width, 0) + 1
        if self._uses_graphs and self._runs[width] > _RUNS_BEFORE_GRAPH:
            if width not in self._graphs:
                self._record(width)
            if self._uses_graphs:
                self._graphs[width].replay()
                return
        if not self.compiled:
            self._forward_and_backward(width)
            return
        try:
            self._forward_and_backward(width)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # the compiler's own; no gradient has been added yet
            self._say(f"torch.compile does not work here, going on without: {_first_line(error)}")
            self.compiled, self._losses = False, self._plain_losses
            self._forward_and_backward(width)

    def _record(self, width: int) -> None:
        graph = torch.cuda.CUDAGraph()
        pool = next(iter(self._graphs.values())).pool() if self._graphs else None
        try:
            with torch.cuda.graph(graph, pool=pool):
                self._forward_and_backward(width)
        except RuntimeError as error:
            # Where memory runs out, ending the recording fails as well and hides it.
            if isinstance(error, torch.OutOfMemoryError):
                raise
            if isinstance(error.__context__, torch.OutOfMemoryError):
                raise error.__context__ from None
            self._say(f"CUDA graphs do not work here, going on without: {_first_line(error)}")
            self._uses_graphs = False
            return
        self._graphs[width] = graph

    def _forward_and_backward(self, width: int) -> None:
        objective = self.objective
        inputs_BxT, targets_BxT, weights_BxT, counts_BxT = self._rows.batch(
            self._rows_B, width, self._label_weights_N
        )
        nll_BxT = self._losses(objective.drop_tokens(inputs_BxT), targets_BxT)
        ((nll_BxT * weights_BxT).sum() / self._total_weight).backward()
        self._nll += (nll_BxT.detach() * counts_BxT).sum()

    def _plain_losses(self, inputs_BxT: Tensor, targets_BxT: Tensor) -> Tensor:
        """nll_BxT. Padding lies on the right, where causal attention never looks from a token."""
        objective = self.objective
        with objective.precision.autocast(objective.device):
            hidden_BxTxE = padded_hidden_states(objective.model, inputs_BxT)
        nll_M = objective.nll(hidden_BxTxE.flatten(0, 1), targets_BxT.flatten())
        return nll_M.view_as(targets_BxT)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
