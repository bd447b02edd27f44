"""Layout of packed rows: a batch concatenated without padding, as a matrix, or by heads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class PackedRows:
    """Where the tokens of B rows, of at least one token each, lie without padding."""

    def __init__(self, lengths: Sequence[int] | np.ndarray):
        lengths_B = torch.as_tensor(lengths, dtype=torch.int64)
        self.B, self.T, self.N = len(lengths_B), int(lengths_B.max()), int(lengths_B.sum())
        starts_B = lengths_B.cumsum(0) - lengths_B
        row_N = torch.repeat_interleave(lengths_B, output_size=self.N)
        self.position_N = torch.arange(self.N) - starts_B[row_N]
        self.last_B = starts_B + lengths_B - 1
        # Longest row first, so that the rows that reach a chunk of queries are the first ones.
        self._order_B = lengths_B.argsort(descending=True, stable=True)
        self._rank_B = torch.empty_like(self._order_B)
        self._rank_B[self._order_B] = torch.arange(self.B)
        if self.N == self.B * self.T:
            self._place_N, self._rows_longer = None, lambda place: self.B
            return
        self._place_N = self._rank_B[row_N] * self.T + self.position_N
        self._rows_longer = lambda place: int((lengths_B > place).sum())
        # Token 0 stands in for padding: gathering is six times as fast as scattering.
        self._token_P = torch.zeros(self.B * self.T, dtype=torch.int64)
        self._token_P[self._place_N] = torch.arange(self.N)
        self._holds_token_Px1 = torch.zeros(self.B * self.T, 1, dtype=torch.bool)
        self._holds_token_Px1[self._place_N] = True

    def to_matrix(self, ids_N: Tensor) -> Tensor:
        """Ids as B x T, each row padded on the right with id 0; sorted, the longest row first."""
        if self._place_N is None:
            return ids_N.view(self.B, self.T)
        place_N = self._place_N.to(ids_N.device, non_blocking=True)
        return ids_N.new_zeros(self.B * self.T).index_copy_(0, place_N, ids_N).view(self.B, self.T)

    def from_matrix(self, x_BxTxE: Tensor) -> Tensor:
        """Values at the tokens of a matrix in the layout of `to_matrix`, N x E."""
        x = x_BxTxE.flatten(0, 1)
        if self._place_N is None:
            return x
        return x.index_select(0, self._place_N.to(x.device, non_blocking=True))

    def in_order(self, x_BxL: Tensor) -> Tensor:
        """Rows in the order of `to_matrix`, put in the order in which they were given."""
        return x_BxL[self._rank_B.to(x_BxL.device, non_blocking=True)]

    def rows_longer_than(self, place: int) -> int:
        """Number of rows with a token at `place`; `heads` puts these first."""
        return self._rows_longer(place)

    def heads(self, x_NxE: Tensor, parts: int, H: int, zero_padding: bool = False) -> Tensor:
        """N x (parts H D) as parts x (B H) x T x D.

        Behind the end of a row are finite numbers, which no token attends to, or zeros.
        """
        if self._place_N is not None:
            x_NxE = x_NxE.index_select(0, self._token_P)
            if zero_padding:
                x_NxE *= self._holds_token_Px1
        x = x_NxE.view(self.B, self.T, parts, H, -1).permute(2, 0, 3, 1, 4)
        return x.reshape(parts, self.B * H, self.T, -1)

    def merge(self, x_PxRxTxD: Tensor, H: int) -> Tensor:
        """The inverse of `heads`."""
        parts = len(x_PxRxTxD)
        x = x_PxRxTxD.view(parts, self.B, H, self.T, -1).permute(1, 3, 0, 2, 4)
        x = x.reshape(self.B * self.T, -1)
        return x if self._place_N is None else x.index_select(0, self._place_N)

    def last_heads(self, x_BxE: Tensor, H: int) -> Tensor:
        """One token of each row, B x (H D), as (B H) x 1 x D in the order of `heads`."""
        return x_BxE[self._order_B].view(self.B * H, 1, -1)

    def merge_last(self, x_Rx1xD: Tensor) -> Tensor:
        """The inverse of `last_heads`."""
        return x_Rx1xD.view(self.B, -1)[self._rank_B]

    def ended(self, H: int) -> Tensor | None:
        """Mask of the places of `heads` behind the end of a row, (B H) x T x 1, or None."""
        if self._place_N is None:
            return None
        ended_BxT = ~self._holds_token_Px1.view(self.B, self.T)
        return ended_BxT.repeat_interleave(H, dim=0)[..., None]
