"""From names to concepts: recognition layers, or a memory that holds one free vector for every name.

Shape suffixes: N names, T tokens of a name, D width, V tokens.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from jepa_lab.data.facts.generated import PAD
from jepa_lab.papers.reversal_curse.blocks import Block


class Recognition(nn.Module):
    """The paper's Wernicke layers: each name passes `depth` blocks by itself; the last position is its concept.

    Depth 0 is the concept level: a token's embedding is its concept.
    """

    def __init__(self, vocabulary: int, width: int, heads: int, hidden: int, depth: int, dropout: float = 0.0):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.tokens.weight, std=0.02)
        self.blocks = nn.ModuleList(Block(width, heads, hidden, dropout, depth) for _ in range(depth))

    def forward(self, names_NT: Int64[Tensor, "N T"], padded: bool = False) -> Float[Tensor, "N D"]:
        """Concepts of names. padded: some names are shorter than others and filled with PAD on the left.

        Raises ValueError for names of several tokens at depth 0.
        """
        if not self.blocks and names_NT.shape[1] > 1:
            raise ValueError(f"names of {names_NT.shape[1]} tokens need at least one recognition layer")
        seen_NT = names_NT != PAD if padded else None
        x_NTD = self.tokens(names_NT)
        for i, block in enumerate(self.blocks, start=1):
            x_NTD = block(x_NTD, seen_NT, read=1 if i == len(self.blocks) else None)
        return x_NTD[:, -1]


class Memory(nn.Module):
    """The paper's memory layer with k = 1 and frozen keys: every name retrieves a free vector of its own.

    The query is the mean of a name's frozen random token vectors, and the keys are the same means. The row that a name
    retrieves therefore never changes, and is looked up once, at construction. Keys are normalised; the paper relies on
    a large width instead. Raises ValueError where a name does not retrieve its own row.
    """

    def __init__(self, names_NT: Int64[Tensor, "N T"], vocabulary: int, width: int):
        super().__init__()
        self.values = nn.Embedding(len(names_NT), width)
        nn.init.normal_(self.values.weight, std=0.02)
        if not self.values.weight.is_meta:  # a model on the meta device has no keys to compare
            check_retrieval(names_NT, torch.randn(vocabulary, width))

    def forward(self, entities_N: Int64[Tensor, " N"]) -> Float[Tensor, "N D"]:
        return self.values(entities_N)


def check_retrieval(names_NT: Int64[Tensor, "N T"], tokens_VD: Float[Tensor, "V D"]) -> None:
    """Raises ValueError where the mean token vector of a name is nearest to another name's mean."""
    seen_NT1 = (names_NT != PAD)[..., None]
    keys_ND = F.normalize((tokens_VD[names_NT] * seen_NT1).sum(1) / seen_NT1.sum(1), dim=1)
    nearest_N = torch.cat([(part_nD @ keys_ND.T).argmax(1) for part_nD in keys_ND.split(1000)])
    wrong = int((nearest_N != torch.arange(len(nearest_N))).sum())
    if wrong:
        raise ValueError(
            f"{wrong} names retrieve another name's row; widen the keys, or look for names with the same tokens in "
            "another order"
        )
