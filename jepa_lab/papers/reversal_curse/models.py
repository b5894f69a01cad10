"""Names to concepts to answers: the models of "Is the Reversal Curse a Binding Problem?" (Wang & Sun 2025).

`Recognition` turns a name into one vector; `ConceptJEPA` predicts the answer's vector in that same space, `TokenAR`
spells
its tokens. Blocks are causal and know no positions, as in the paper. Only the last position of a last block is computed
where nothing else is read: same numbers, a third of the time.
Shape suffixes: B facts, N names, T tokens of a name, S positions, Q positions that are read, D width, V tokens, H
heads.
"""

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from jepa_lab.data.facts.generated import FIRST_RELATION, MASK, PAD


class Block(nn.Module):
    """A pre-norm causal transformer block, GPT-2's with tanh GELU, that can compute its last `read` positions alone."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float = 0.0, depth: int = 1):
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} does not split into {heads} heads; choose a divisor of the width")
        self.heads, self.dropout = heads, dropout
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.merge, self.up, self.down = nn.Linear(width, width), nn.Linear(width, hidden), nn.Linear(hidden, width)
        for linear in (self.query, self.key_value, self.up, self.merge, self.down):
            residual = linear in (self.merge, self.down)  # GPT-2: what enters the residual stream starts smaller
            nn.init.normal_(linear.weight, std=0.02 / (2 * depth) ** 0.5 if residual else 0.02)
            nn.init.zeros_(linear.bias)

    def forward(
        self, x_BSD: Float[Tensor, "B S D"], seen_BS: Bool[Tensor, "B S"] | None = None, read: int | None = None
    ) -> Float[Tensor, "B Q D"]:
        """Outputs at the last `read` positions (all by default). `seen_BS` is False where a position is padding."""
        length, read = x_BSD.shape[1], read or x_BSD.shape[1]
        y_BSD, tail_BQD = self.norm_attention(x_BSD), x_BSD[:, length - read :]
        key_BSD, value_BSD = self.key_value(y_BSD).chunk(2, dim=-1)
        mixed = self.attend(self.query(y_BSD[:, length - read :]), key_BSD, value_BSD, seen_BS)
        x_BQD = tail_BQD + F.dropout(self.merge(mixed), self.dropout, self.training)
        hidden = F.gelu(self.up(self.norm_mlp(x_BQD)), approximate="tanh")
        return x_BQD + F.dropout(self.down(hidden), self.dropout, self.training)

    def attend(
        self, query_BQD: Tensor, key_BSD: Tensor, value_BSD: Tensor, seen_BS: Bool[Tensor, "B S"] | None
    ) -> Float[Tensor, "B Q D"]:
        """Causal attention of the last positions. The batch is innermost: at lengths of 2 to 7 faster than small matrix
        products.
        """
        q, k, v = (
            rearrange(x, "b s (h k) -> s h k b", h=self.heads).contiguous() for x in (query_BQD, key_BSD, value_BSD)
        )
        q, k, v = q.float(), k.float(), v.float()  # bf16 would round at every term of a sum
        weights_QSHB = Dot.apply(q, k) * k.shape[2] ** -0.5
        if len(q) > 1 or seen_BS is not None:
            allowed = torch.ones(len(k), len(k), dtype=torch.bool, device=k.device).tril()[
                len(k) - len(q) :, :, None, None
            ]
            allowed = allowed if seen_BS is None else allowed & rearrange(seen_BS, "b s -> s 1 b")
            weights_QSHB = weights_QSHB.masked_fill(
                ~allowed, -1e4
            )  # finite: a row of padding alone must not become NaN
        weights_QSHB = F.dropout(weights_QSHB.softmax(1), self.dropout, self.training)
        return rearrange(Blend.apply(weights_QSHB, v), "q h k b -> b q (h k)").to(value_BSD.dtype)


def dot(q_QHKB: Tensor, k_SHKB: Tensor) -> Tensor:
    """Scalar products over K, [Q S H B]. A CPU sums in place: the plain product would be K times as large."""
    if q_QHKB.is_cuda:  # one matrix product instead of K launches
        return einsum(q_QHKB, k_SHKB, "q h k b, s h k b -> q s h b").float()
    total = q_QHKB[:, None, :, 0] * k_SHKB[:, :, 0]
    for i in range(1, q_QHKB.shape[2]):
        total.addcmul_(q_QHKB[:, None, :, i], k_SHKB[:, :, i])
    return total


def blend(weights_QSHB: Tensor, v_SHKB: Tensor) -> Tensor:
    """Weighted sums over S, [Q H K B], in place as well."""
    if v_SHKB.is_cuda:
        return einsum(weights_QSHB, v_SHKB, "q s h b, s h k b -> q h k b").float()
    total = weights_QSHB[:, 0, :, None] * v_SHKB[0]
    for i in range(1, len(v_SHKB)):
        total.addcmul_(weights_QSHB[:, i, :, None], v_SHKB[i])
    return total


class Dot(torch.autograd.Function):
    """`dot` with its gradients, which are blends."""

    @staticmethod
    def forward(ctx, q, k):
        ctx.save_for_backward(q, k)
        return dot(q, k)

    @staticmethod
    def backward(ctx, grad):
        q, k = ctx.saved_tensors
        return blend(grad, k), blend(rearrange(grad, "q s h b -> s q h b"), q)


class Blend(torch.autograd.Function):
    """`blend` with its gradients, a dot and a blend."""

    @staticmethod
    def forward(ctx, weights, v):
        ctx.save_for_backward(weights, v)
        return blend(weights, v)

    @staticmethod
    def backward(ctx, grad):
        weights, v = ctx.saved_tensors
        return dot(grad, v), blend(rearrange(weights, "q s h b -> s q h b"), grad)


def rms(x: Float[Tensor, "*n D"]) -> Float[Tensor, "*n D"]:
    """Scaled to mean square 1, no mean subtracted, nothing learned (the paper's `variance_only`), in float32."""
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


class Recognition(nn.Module):
    """The paper's Wernicke layers: each name by itself goes through `depth` blocks; its last position is the concept.

    Depth 0 is the concept level: a token's embedding is its concept.
    """

    def __init__(self, vocabulary: int, width: int, heads: int, hidden: int, depth: int, dropout: float = 0.0):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.tokens.weight, std=0.02)
        self.blocks = nn.ModuleList(Block(width, heads, hidden, dropout, depth) for _ in range(depth))

    def forward(self, names_NT: Int64[Tensor, "N T"], padded: bool = False) -> Float[Tensor, "N D"]:
        """Concepts of names; `padded` says that some are shorter than others (filled with PAD on the left)."""
        if not self.blocks and names_NT.shape[1] > 1:
            raise ValueError(f"names of {names_NT.shape[1]} tokens need at least one recognition layer")
        seen_NT, x_NTD = names_NT != PAD if padded else None, self.tokens(names_NT)
        for i, block in enumerate(self.blocks):
            x_NTD = block(x_NTD, seen_NT, read=1 if i == len(self.blocks) - 1 else None)
        return x_NTD[:, -1]


class Memory(nn.Module):
    """The memory layer with k = 1 and frozen keys: every distinct name retrieves a free vector of its own.

    The query is the mean of a name's frozen random token vectors, keys are those means: with frozen keys the row that
    a name retrieves never changes, so it is looked up once, here. Keys are normalised (the paper relies on high width).
    Raises ValueError where a name does not retrieve its own row.
    """

    def __init__(self, names_NT: Int64[Tensor, "N T"], vocabulary: int, width: int):
        super().__init__()
        self.values = nn.Embedding(len(names_NT), width)
        nn.init.normal_(self.values.weight, std=0.02)
        if not self.values.weight.is_meta:  # a model on the meta device has no keys to compare
            self._check_retrieval(names_NT, vocabulary)

    def _check_retrieval(self, names_NT: Int64[Tensor, "N T"], vocabulary: int) -> None:
        tokens_VD = torch.randn(vocabulary, self.values.embedding_dim)
        seen_NT1 = (names_NT != PAD)[..., None]
        keys_ND = F.normalize((tokens_VD[names_NT] * seen_NT1).sum(1) / seen_NT1.sum(1), dim=1)
        own = torch.cat([(part @ keys_ND.T).argmax(1) for part in keys_ND.split(1000)])
        wrong = int((own != torch.arange(len(own))).sum())
        if wrong:
            raise ValueError(
                f"{wrong} names retrieve another name's row (same tokens in another order?); widen the keys"
            )

    def forward(self, entities_N: Int64[Tensor, " N"]) -> Float[Tensor, "N D"]:
        return self.values(entities_N)


class ConceptJEPA(nn.Module):
    """Predicts the answer's concept from the subject's and the relation's; one recognition module serves input and
    target.

    entities: `Recognition` or `Memory`. target: an untied recognition module for targets (an ablation).
    language: weight of the optional loss that spells the predicted concept, one linear readout per place of a name.
    """

    def __init__(
        self,
        names: Int64[Tensor, "E T"],
        entities: nn.Module,
        signs: Recognition,
        num_relations: int,
        semantic: nn.ModuleList,
        target: Recognition | None = None,
        norm: bool = False,
        language: float = 0.0,
    ):
        super().__init__()
        self.entities, self.signs, self.semantic, self.target = entities, signs, semantic, target
        self.language, width = language, signs.tokens.embedding_dim
        self.spell = nn.Linear(width, names.shape[1] * (int(names.max()) + 1)) if language else None
        self.norm = nn.LayerNorm(width) if norm else None
        if norm:  # prediction and candidates are both normalised: a gain of 1 would start with scores of width**0.5
            nn.init.constant_(self.norm.weight, width**-0.25)
        self.padded = bool((names == PAD).any())
        self.register_buffer("names", names, persistent=False)
        self.register_buffer(
            "sign_tokens",
            torch.tensor([*range(FIRST_RELATION, FIRST_RELATION + num_relations), MASK]),
            persistent=False,
        )

    def concepts(self, entities_N: Int64[Tensor, " N"], target: bool = False) -> Float[Tensor, "N D"]:
        """Concept embeddings of entities, on the input side or (untied) on the target side."""
        module = self.target if target and self.target is not None else self.entities
        return module(entities_N) if isinstance(module, Memory) else module(self.names[entities_N], self.padded)

    def sign_concepts(self, target: bool = False) -> Float[Tensor, "K D"]:
        """Concepts of all relations and, last, of the mask."""
        return (self.target if target and self.target is not None else self.signs)(self.sign_tokens[:, None])

    def answer(
        self, subject_BD: Float[Tensor, "B D"], signs_KD: Float[Tensor, "K D"], second_B: Int64[Tensor, " B"]
    ) -> Float[Tensor, "B D"]:
        """z, the predicted concept: the semantic module's output at the mask, normalised.

        second_B: relations, or entities in a world without relations (sums).
        """
        second_BD = signs_KD[second_B] if len(signs_KD) > 1 else self.concepts(second_B)
        x_BSD = torch.stack([subject_BD, second_BD, signs_KD[-1].expand_as(subject_BD)], dim=1)
        for i, block in enumerate(self.semantic):
            x_BSD = block(x_BSD, read=1 if i == len(self.semantic) - 1 else None)
        return self.comparable(x_BSD[:, -1], rms)

    def comparable(self, x_ND: Float[Tensor, "N D"], otherwise=lambda x: x.float()) -> Float[Tensor, "N D"]:
        return otherwise(x_ND) if self.norm is None else self.norm(x_ND).float()


def first_seen(ids_K: Int64[Tensor, " K"], count: int) -> Int64[Tensor, " K"]:
    """For every position the first position that holds the same id (ids below `count`): de-duplication in a fixed
    shape.
    """
    positions = torch.arange(len(ids_K), device=ids_K.device)
    return positions.new_full((count,), len(ids_K)).scatter_reduce(0, ids_K, positions, "amin")[ids_K]


def jepa_loss(
    model: ConceptJEPA,
    facts_B3: Int64[Tensor, "B 3"],
    stop_gradient: bool = False,
    contrast: bool = True,
    mask_duplicates: bool = True,
) -> Float[Tensor, ""]:
    """Section 3 of the paper: cross-entropy of z . c over all concepts in the batch, temperature 1, no stop-gradient.

    Candidates are the batch's objects and subjects, the relations and the mask. Whatever occurs several times counts
    once; `mask_duplicates=False` is the paper's code: 4 candidates per fact, where an entity competes with itself.
    `contrast=False` is plain regression: mean squared distance of the vectors, both scaled to mean square 1.
    """
    subject_B, relation_B, object_B = facts_B3.T
    ids_K = torch.cat([object_B, subject_B])
    size, both_KD, signs_KD = len(facts_B3), model.concepts(ids_K), model.sign_concepts()
    z_BD = model.answer(both_KD[size:], signs_KD, relation_B)
    if model.target is not None:
        both_KD, signs_KD = model.concepts(ids_K, target=True), model.sign_concepts(target=True)
    if stop_gradient:
        both_KD, signs_KD = both_KD.detach(), signs_KD.detach()
    with torch.autocast("cpu" if z_BD.is_meta else z_BD.device.type, enabled=False):  # scores of bf16 would tie
        if not contrast:
            loss = (rms(z_BD) - rms(both_KD[:size])).square().mean()
        elif mask_duplicates:
            first_K = first_seen(ids_K, len(model.names))
            repeated_K = first_K != torch.arange(2 * size, device=z_BD.device)
            logits_BK = z_BD @ model.comparable(torch.cat([both_KD, signs_KD])).T
            loss = F.cross_entropy(logits_BK.masked_fill(F.pad(repeated_K, (0, len(signs_KD))), -1e9), first_K[:size])
        else:
            signs_KD = torch.cat([signs_KD[relation_B], signs_KD[-1:].expand(size, -1)])
            logits_BK = z_BD @ model.comparable(torch.cat([both_KD, signs_KD])).T
            loss = F.cross_entropy(logits_BK, torch.arange(size, device=z_BD.device))
        return loss if model.spell is None else loss + model.language * language_loss(model, z_BD, object_B)


def language_loss(model: ConceptJEPA, z_BD: Float[Tensor, "B D"], object_B: Int64[Tensor, " B"]) -> Float[Tensor, ""]:
    """Cross-entropy of the answer's tokens, each read off the predicted concept."""
    goal_BT = model.names[object_B]
    logits = rearrange(model.spell(z_BD), "b (t v) -> (b t) v", t=goal_BT.shape[1])
    return F.cross_entropy(logits, torch.where(goal_BT == PAD, -100, goal_BT).flatten())


class TokenAR(nn.Module):
    """The autoregressive transformer: [subject tokens][relation][mask] -> object tokens, next-token cross-entropy.

    tied: the output head is the input embedding (as in GPT-2). memory: entities are read from a `Memory`, which stands
    in
    for the first block; answers are still spelled in tokens. num_relations 0: the second operand is an entity (sums).
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
        self.tokens, self.blocks, self.memory, self.norm = (
            nn.Embedding(vocabulary, width),
            blocks,
            memory,
            nn.LayerNorm(width),
        )
        nn.init.normal_(self.tokens.weight, std=0.02)
        self.head = self.tokens.weight if tied else nn.Parameter(0.02 * torch.randn(vocabulary, width))
        self.relational, self.padded = num_relations > 0, bool((names == PAD).any())
        self.register_buffer("names", names, persistent=False)
        left = (names != PAD).sum(
            1, keepdim=True
        )  # spelled from the left, with at least one PAD as full stop where it is needed
        column = torch.arange(names.shape[1] + (self.padded and begins_another(names)), device=names.device)
        shifted = (column + names.shape[1] - left).clamp(max=names.shape[1] - 1)
        self.register_buffer("spelling", torch.where(column < left, names.gather(1, shifted), PAD), persistent=False)

    def question(
        self, first_B: Int64[Tensor, " B"], second_B: Int64[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B S D"], Bool[Tensor, "B S"]]:
        """Embedded question without the mask, and which positions are no padding."""
        parts, seen = [], []
        for ids_B, is_entity in ((first_B, True), (second_B, not self.relational)):
            tokens_BT = self.names[ids_B] if is_entity else ids_B[:, None] + FIRST_RELATION
            read = is_entity and self.memory is not None
            parts.append(self.memory(ids_B)[:, None] if read else self.tokens(tokens_BT))
            seen.append(tokens_BT[:, -1:] != PAD if read else tokens_BT != PAD)
        return torch.cat(parts, 1), torch.cat(seen, 1)

    def logits(self, facts_B3: Int64[Tensor, "B 3"]) -> Float[Tensor, "B T V"]:
        """Scores of every token at each place of the answer, given the true tokens before it."""
        spelled_BT = self.spelling[facts_B3[:, 2]]
        asked_BSD, seen_BS = self.question(facts_B3[:, 0], facts_B3[:, 1])
        said_BT = torch.cat([torch.full_like(spelled_BT[:, :1], MASK), spelled_BT[:, :-1]], dim=1)
        x_BSD = torch.cat([asked_BSD, self.tokens(said_BT)], dim=1)
        seen_BS = torch.cat([seen_BS, torch.ones_like(said_BT, dtype=torch.bool)], 1) if self.padded else None
        for i, block in enumerate(self.blocks):
            x_BSD = block(x_BSD, seen_BS, read=spelled_BT.shape[1] if i == len(self.blocks) - 1 else None)
        return (self.norm(x_BSD) @ self.head.T).float()

    def log_likelihood(self, facts_B3: Int64[Tensor, "B 3"]) -> tuple[Float[Tensor, " B"], Bool[Tensor, " B"]]:
        """log p(answer | question), and whether greedy spelling gives exactly this answer."""
        logits_BTV, goal_BT = self.logits(facts_B3), self.spelling[facts_B3[:, 2]]
        counted_BT = self.counted(goal_BT)
        each_BT = -F.cross_entropy(rearrange(logits_BTV, "b t v -> b v t"), goal_BT, reduction="none")
        return (each_BT * counted_BT).sum(1), ((logits_BTV.argmax(-1) == goal_BT) | ~counted_BT).all(1)

    @staticmethod
    def counted(goal_BT: Int64[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
        """Real tokens and the first PAD after them, the full stop."""
        return F.pad(goal_BT != PAD, (1, 0), value=True)[:, :-1]


def begins_another(names_ET: Int64[Tensor, "E T"]) -> bool:
    """Whether a name is the beginning of another, so that only a full stop tells where it ends."""
    spelled = {tuple(token for token in name if token != PAD) for name in names_ET.tolist()}
    return any(name[:end] in spelled for name in spelled for end in range(1, len(name)))


def ar_loss(model: TokenAR, facts_B3: Int64[Tensor, "B 3"]) -> Float[Tensor, ""]:
    """Cross-entropy of the answer's tokens alone, mean over them."""
    goal_BT = model.spelling[facts_B3[:, 2]]
    return F.cross_entropy(
        rearrange(model.logits(facts_B3), "b t v -> (b t) v"),
        torch.where(model.counted(goal_BT), goal_BT, -100).flatten(),
    )
