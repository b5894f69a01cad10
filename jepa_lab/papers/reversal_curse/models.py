"""The two models of Wang & Sun 2025: `ConceptJEPA` predicts the answer's concept, `TokenAR` spells the answer's tokens.

Only the positions that something reads are computed in a last block: the same numbers in a third of the time.
Shape suffixes: B facts, N entities, E all entities, T tokens of a name, S positions, D width, V tokens, K signs
(relations and the mask).
"""

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from jepa_lab.data.facts.generated import FIRST_RELATION, MASK, PAD
from jepa_lab.papers.reversal_curse.recognition import Memory, Recognition


def rms(x: Float[Tensor, "*n D"]) -> Float[Tensor, "*n D"]:
    """Vectors scaled to mean square 1, in float32. No mean is subtracted (the paper's `variance_only`)."""
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


class ConceptJEPA(nn.Module):
    """Predicts the concept of the answer from the concepts of subject and relation (section 3 of the paper).

    One recognition module serves both sides of a fact, unless `target` gives the answers another one (an ablation).
    language: weight of the paper's optional loss, which spells the predicted concept with one linear readout per place.
    """

    def __init__(
        self,
        names: Int64[Tensor, "E T"],
        entities: Recognition | Memory,
        signs: Recognition,
        num_relations: int,
        semantic: nn.ModuleList,
        target: Recognition | None = None,
        norm: bool = False,
        language: float = 0.0,
    ):
        super().__init__()
        width = signs.tokens.embedding_dim
        self.entities, self.signs, self.semantic, self.target = entities, signs, semantic, target
        self.language = language
        self.spell = nn.Linear(width, names.shape[1] * (int(names.max()) + 1)) if language else None
        self.norm = nn.LayerNorm(width) if norm else None
        if norm:  # prediction and candidates are both normalised: with a gain of 1 the scores start at width**0.5
            nn.init.constant_(self.norm.weight, width**-0.25)
        self.padded = bool((names == PAD).any())
        sign_tokens = torch.tensor([*range(FIRST_RELATION, FIRST_RELATION + num_relations), MASK])
        self.register_buffer("names", names, persistent=False)
        self.register_buffer("sign_tokens", sign_tokens, persistent=False)

    def concepts(self, entities_N: Int64[Tensor, " N"], target: bool = False) -> Float[Tensor, "N D"]:
        """Concepts of entities. target: as answers, where answers have a recognition module of their own."""
        module = self.target if target and self.target is not None else self.entities
        if isinstance(module, Memory):
            return module(entities_N)
        return module(self.names[entities_N], self.padded)

    def sign_concepts(self, target: bool = False) -> Float[Tensor, "K D"]:
        """Concepts of all relations and, last, of the mask. target: as in `concepts`."""
        module = self.target if target and self.target is not None else self.signs
        return module(self.sign_tokens[:, None])

    def answer(
        self, subject_BD: Float[Tensor, "B D"], signs_KD: Float[Tensor, "K D"], second_B: Int64[Tensor, " B"]
    ) -> Float[Tensor, "B D"]:
        """The predicted concept z: the semantic module's output at the mask, normalised.

        second_B: relations, or entities where there are no relations (sums).
        """
        second_BD = signs_KD[second_B] if len(signs_KD) > 1 else self.concepts(second_B)
        x_BSD = torch.stack([subject_BD, second_BD, signs_KD[-1].expand_as(subject_BD)], dim=1)
        for i, block in enumerate(self.semantic, start=1):
            x_BSD = block(x_BSD, read=1 if i == len(self.semantic) else None)
        return rms(x_BSD[:, -1]) if self.norm is None else self.norm(x_BSD[:, -1]).float()

    def comparable(self, x_ND: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        """Concepts as the candidates that `answer` is multiplied with."""
        return x_ND.float() if self.norm is None else self.norm(x_ND).float()


class TokenAR(nn.Module):
    """Autoregressive transformer: [subject tokens][relation][mask] -> object tokens.

    tied: the output head is the input embedding, as in GPT-2. memory: stands in for the first block and is read for
    every entity of the question; answers are still spelled in tokens. num_relations 0: two entities are asked (sums).
    """

    def __init__(
        self,
        names: Int64[Tensor, "E T"],
        vocabulary: int,
        width: int,
        num_relations: int,
        blocks: nn.ModuleList,
        tied: bool = True,
        memory: Memory | None = None,
    ):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.blocks, self.memory = blocks, memory
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.tokens.weight, std=0.02)
        self.untied_head = None if tied else nn.Parameter(0.02 * torch.randn(vocabulary, width))
        self.relational, self.padded = num_relations > 0, bool((names == PAD).any())
        self.register_buffer("names", names, persistent=False)
        self.register_buffer("spelling", spelling(names), persistent=False)

    @property
    def head(self) -> Float[Tensor, "V D"]:
        """The output head: the input embedding where both are tied."""
        return self.tokens.weight if self.untied_head is None else self.untied_head

    def question(
        self, first_B: Int64[Tensor, " B"], second_B: Int64[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B S D"], Bool[Tensor, "B S"]]:
        """Embedded question without the mask, and which positions are not padding."""
        first_BSD, seen_BS = self.entity(first_B)
        if not self.relational:
            second_BSD, more_BS = self.entity(second_B)
        else:
            tokens_B1 = second_B[:, None] + FIRST_RELATION
            second_BSD, more_BS = self.tokens(tokens_B1), tokens_B1 != PAD
        return torch.cat([first_BSD, second_BSD], 1), torch.cat([seen_BS, more_BS], 1)

    def entity(self, entities_B: Int64[Tensor, " B"]) -> tuple[Float[Tensor, "B S D"], Bool[Tensor, "B S"]]:
        """An entity in a question: its embedded tokens or its vector of the memory; which positions are not padding."""
        tokens_BT = self.names[entities_B]
        if self.memory is None:
            return self.tokens(tokens_BT), tokens_BT != PAD
        return self.memory(entities_B)[:, None], tokens_BT[:, -1:] != PAD

    def logits(self, facts_B3: Int64[Tensor, "B 3"]) -> Float[Tensor, "B T V"]:
        """Scores of every token at each place of the answer, given the true tokens before it."""
        spelled_BT = self.spelling[facts_B3[:, 2]]
        asked_BSD, seen_BS = self.question(facts_B3[:, 0], facts_B3[:, 1])
        given_BT = torch.cat([torch.full_like(spelled_BT[:, :1], MASK), spelled_BT[:, :-1]], dim=1)
        x_BSD = torch.cat([asked_BSD, self.tokens(given_BT)], dim=1)
        seen_BS = torch.cat([seen_BS, torch.ones_like(given_BT, dtype=torch.bool)], 1) if self.padded else None
        for i, block in enumerate(self.blocks, start=1):
            x_BSD = block(x_BSD, seen_BS, read=spelled_BT.shape[1] if i == len(self.blocks) else None)
        return (self.norm(x_BSD) @ self.head.T).float()

    def log_likelihood(self, facts_B3: Int64[Tensor, "B 3"]) -> tuple[Float[Tensor, " B"], Bool[Tensor, " B"]]:
        """log p(answer | question), and whether greedy spelling gives exactly this answer."""
        logits_BTV, goal_BT = self.logits(facts_B3), self.spelling[facts_B3[:, 2]]
        counted_BT = self.counted(goal_BT)
        each_BT = -F.cross_entropy(rearrange(logits_BTV, "b t v -> b v t"), goal_BT, reduction="none")
        return (each_BT * counted_BT).sum(1), ((logits_BTV.argmax(-1) == goal_BT) | ~counted_BT).all(1)

    @staticmethod
    def counted(goal_BT: Int64[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
        """Which places count: real tokens, and the first PAD after them, which is the full stop."""
        return F.pad(goal_BT != PAD, (1, 0), value=True)[:, :-1]


def spelling(names_ET: Int64[Tensor, "E T"]) -> Int64[Tensor, "E t"]:
    """Names from the left, filled with PAD on the right.

    A column is added where a name begins another and both could end at the same place: every name then has a full stop.
    """
    width = names_ET.shape[1]
    length_E1 = (names_ET != PAD).sum(1, keepdim=True)
    needs_stop = bool((names_ET == PAD).any()) and begins_another(names_ET)
    column_t = torch.arange(width + needs_stop, device=names_ET.device)
    shifted_Et = (column_t + width - length_E1).clamp(max=width - 1)
    return torch.where(column_t < length_E1, names_ET.gather(1, shifted_Et), PAD)


def begins_another(names_ET: Int64[Tensor, "E T"]) -> bool:
    """Whether a name is the beginning of another one, so that only a full stop tells where it ends."""
    spelled = {tuple(name[name.count(PAD) :]) for name in names_ET.tolist()}  # PAD stands on the left
    return any(name[:end] in spelled for name in spelled for end in range(1, len(name)))
