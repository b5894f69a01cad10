# ---
# jupyter:
#   accelerator: GPU
#   colab:
#     gpuType: T4
#   jupytext:
#     formats: ipynb,py:percent
#     notebook_metadata_filter: kernelspec,accelerator,colab,-language_info
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Is the reversal curse a binding problem?
#
# :::{card} This chapter in one box
# :class-card: jl-top
#
# | | |
# |---|---|
# | **Paper** | Wang & Sun 2025, *Is the Reversal Curse a Binding Problem?* {cite}`wang2025reversal`, [arXiv 2504.01928](https://arxiv.org/abs/2504.01928) |
# | **Claim** | A language model that has read "A is B" cannot say what B is, because a name is several tokens and it never binds them to *one* concept, the same on both sides of a fact. A JEPA that predicts concepts, and a memory layer that keeps them apart, answer the reversed question. |
# | **The paper's number** | reversed facts answered on names of two tokens: about 0 by the autoregressive model, about 72 % by JEPA, about 80 % by JEPA with a memory (80 thousand entities, 6 relation pairs; read off figures, second hand; whether accuracy or mean reciprocal rank is uncertain) |
# | **Data** | generated facts about made-up persons; with a kernel also real ones, of countries |
# | **Time** | 4 to 5 minutes on one idle core; preset `gpu`, one arm on an H200: about 4 minutes by its time per step, not run to the end |
#
# The full text of the paper was not at hand when this page was written. Task, models and settings follow its official
# code. Its numbers are second hand, those from figures approximate, each of one seed.
# :::

# %% tags=["remove-cell"]
import sys

if "google.colab" in sys.modules:
    # %pip install -q "jepa_lab @ git+https://github.com/jepa-lab/jepa-lab"
    pass

# %% tags=["parameters"]
preset = "laptop"
seed = 0
device = "auto"
out = ""
overrides = {}

# %% tags=["hide-input"]
import torch
from IPython.display import display

from jepa_lab import claims, figures, records, runtime
from jepa_lab.data.facts import generated, sums
from jepa_lab.papers.reversal_curse import arms, experiments, explorer, long, pages, paper, scores

device = runtime.choose_device(device)
cfg = paper.preset(preset, **overrides)
record = records.start(paper.CHAPTER, preset=preset, seed=seed, config=cfg, claims=paper.CLAIMS, device=device, out=out)
record.data("generated facts and sums", "jepa_lab/data/facts", kind="generated")

# %% tags=["hide-input"]
study = records.load(paper.CHAPTER, preset="laptop", config=paper.preset("laptop"))
stored = {name: records.load(paper.CHAPTER, "long", config=paper.long_config(name)) for name in long.LONG}
figures.arms("JEPA", "AR", "JEPA + memory", "AR + memory")
figures.arms("AR, concepts", "AR, concepts, untied", "JEPA, untrained", "AR, untrained")

# %% [markdown]
# ## The idea
#
# Read "Tom Cruise's mother is Mary Lee Pfeiffer" a thousand times. Who is the son of Mary Lee Pfeiffer? A person knows
# at once. A language model that was taught only the first sentence mostly doesn't: this is the {term}`reversal curse`.
# More data and larger models have not lifted it {cite}`berglund2024reversal`.
#
# **The task.** A fact is a row (subject, relation, object), and relations come in pairs: *teaches* and *is taught by*.
# Entities are in two groups. Facts of group A are taught in both directions, so that what "backward" means can be
# learned. Facts of group B are taught one way only; their other direction is the test. Guessing from word statistics is
# impossible: who is paired with whom is random.
#
# **What the paper really claims** is easy to get wrong, so here it is in order:
#
# 1. Give every entity *one token of its own*, and an ordinary transformer does learn to reverse. Autoregression alone
# is not the culprit.
# 2. Spell every entity in *two tokens* that others use as well, as names are, and the same transformer remembers every
#    fact and reverses none. So the trouble is **binding**: putting the tokens of a name together into one thing.
# 3. It has two sides. *{term}`Inconsistency`*: an entity that is asked about and the same entity as an answer are
#    different vectors. *{term}`Entanglement`*: teaching something about one entity moves others that look like it.
# 4. A JEPA cures the first: one recognition module makes the {term}`concept` of any name, on both sides of a fact, and
#    the prediction is made among concepts. A {term}`memory layer` cures the second: every name gets a vector of its
#    own.
#
# With $c$ the concept that recognition makes of a name and $z$ what the semantic module predicts at the mask
# (`objectives.concept_objective`),
#
# $$
# \begin{aligned}
# c &= \operatorname{recognition}(\text{name}) \\
# z &= \operatorname{semantic}(c_{\text{subject}},\, c_{\text{relation}},\, c_{\text{mask}}) \\
# \mathcal L_{\text{JEPA}} &= -\log \frac{\exp(z \cdot c_{\text{object}})}{\sum_{k} \exp(z \cdot c_k)}
# \end{aligned}
# $$ (eq-reversal-jepa)
#
# where $k$ runs over all concepts in the batch. Both sides get gradients; other entities as negatives prevent
# {term}`collapse`. The autoregressive model spells instead,
#
# $$
# \mathcal L_{\text{AR}} = -\sum_t \log p(\text{object}_t \mid \text{subject},\, \text{relation},\, \text{object}_{<t}).
# $$ (eq-reversal-ar)
#
# ### A trap on the way
#
# Say Ann teaches Bob, employs Cid and admires Dee, and you are asked who is taught by Ann. Suppose you know *that* Ann
# belongs with Bob, Cid and Dee, but not how. Then you name one of the three and are right once in three, while chance
# is one in hundreds. **Far above chance is not yet reversal.** With $R$ relation pairs this *relation-blind* reader
# scores $1/R$, and its mean reciprocal rank is $(1 + \tfrac12 + \dots +
# \tfrac1R)/R$. Only one number sees through it: $P$, how often the right entity
# beats *another partner* of the same subject. Knowing partners alone gives one half. Move the slider.

# %% tags=["hide-input"]
explorer.blind_figure()

# %% [markdown]
# So every figure below draws the {term}`relation-blind ceiling` beside chance, and $P$ stands beside accuracy. The
# paper has $R = 6$, where the ceiling is 1/6 for accuracy and .41 for the mean reciprocal rank (MRR); its numbers clear
# either. We take $R = 3$, which a laptop gets to learn; the ceilings are 1/3 and .61.
#
# ## Smallest code

# %%
data = generated.generate(20, 12, num_pairs=3, multiplicity=2, generator=torch.Generator().manual_seed(seed))
print("names [E, T]", tuple(data.names.shape))
print("taught [F, 3]", tuple(data.taught.shape), "one way", tuple(data.atomic.shape))
print("a fact taught one way", data.atomic[0].tolist(), "and its test", data.reversed[0].tolist())

# %%
arm = arms.fact_arm(cfg, "JEPA", data)
model = arm.build(cfg)
batch = data.train[:8]
z = model.answer(model.concepts(batch[:, 0]), model.sign_concepts(), batch[:, 1])
print("prediction z [B, D]", tuple(z.shape), "all concepts c [E, D]", tuple(scores.all_concepts(model).shape))
print("loss", float(arm.objective(model, batch, None).detach()))

# %% [markdown]
# A row holds ids: entity, relation, entity; relation 1 is relation 0 backwards, 3 is 2 backwards. With
# {term}`multiplicity` 2, every first name and every last name belongs to two persons.
#
# ## Experiment
#
# Four models on the same facts, with the same width, the same number of steps and the same batches: AR and JEPA, each
# with its first layer as it is and with that layer replaced by a memory. The last, AR with a memory, is not in the
# paper; a reviewer asked for it.

# %%
names = experiments.names_duel(cfg, seed, device, progress=True)
names.put(record)

# %% tags=["hide-input"]
trained = names.data["trained"]
levels = dict(relation_blind_ceiling=names.values["blind accuracy"], chance=1 / trained["JEPA"].facts.num_entities)
fig = pages.learning_curves(trained, "test accuracy", "reversed facts answered", "Asked backwards")
explorer.beside(fig, **levels)

# %% tags=["hide-input"]
fig = pages.learning_curves(trained, "trained accuracy", "taught facts answered", "Asked as they were taught")
explorer.beside(fig, **levels)

# %% tags=["hide-input"]
title = "Does the right entity beat another partner of the subject?"
fig = pages.learning_curves(trained, "test over_partner", "relation-specific accuracy", title)
explorer.beside(fig, relation_blind_and_chance=0.5)

# %% [markdown]
# The second figure is the control for the first: whoever fails backwards, fails although the facts are known forwards.
# And a $P$ *below* one half is a finding, too: the model prefers what it was taught about the same subject in another
# relation.
#
# An AR model is right when every token of its greedy spelling is. A JEPA is right when the entity's concept scores
# highest among all entities of both groups. That is a closed choice; here is the AR models' own, the names of all
# entities ranked by likelihood on a sample of reversed facts. Equal scores always count as wrong.

# %% tags=["hide-input"]
pages.closed_choice(trained, names.values["blind mrr"])

# %% [markdown]
#
# ### Is it collapsing?
#
# There is no EMA and no stop-gradient here. The contrast {eq}`eq-reversal-jepa` must keep concepts apart by itself. The
# {term}`collapse panel` of the concepts:

# %% tags=["hide-input"]
pages.collapse_panel(trained, "Concepts of all entities along training")

# %% [markdown]
# ### One token per entity
#
# Now the concept level: the same facts, every entity one token. The input embedding is either also the output head
# (*tied*, as in GPT-2 and in the paper's code) or not. A tied single-token model already predicts in the space of its
# own inputs, which is what a JEPA does.

# %%
concepts = experiments.concept_duel(cfg, seed, device, progress=True)
concepts.put(record)

# %% tags=["hide-input"]
fig = pages.learning_curves(
    concepts.data["trained"], "test accuracy", "reversed facts answered", "One token per entity"
)
explorer.beside(fig, **levels)

# %% tags=["hide-input"]
pages.consistencies(concepts.values)

# %% [markdown]
# ### Sums that follow only from a chain
#
# Can facts be *used* in both directions, several in a row, in one forward pass? The paper's last experiment: numbers
# have names, some values are taught ("Nela is 5"), others follow only from sums ("Nela plus Tor is Mika"), half of
# which must be undone. A target lies three sums away from any taught value, and many of the branches below it lead
# nowhere. Nothing is spelled out when the question comes: the value must have sunk into the name during training.
#
# Chance is too weak a control here. An *order-blind reader* knows which three numbers stand in a sum, but not which of
# them is the total: every sum votes for all three readings, the most voted value wins. Like the relation-blind reader
# it knows who belongs together and not how; a model below it need not have undone anything.

# %%
chains = experiments.chaining(cfg, seed, device, progress=True)
chains.put(record)

# %% tags=["hide-input"]
pages.chain_table(chains.values, cfg.branching)

# %% [markdown]
# The last line is a control again: AR without a memory has not always learned the taught values in these steps, so that
# part of its gap may be a lack of training. AR with a memory has, and is the fairer rival.
#
# ### Look inside
#
# Pick a person and a relation. Every model answers the fact there and back; ◐ marks the right people in the wrong
# relation. The map shows where JEPA keeps the concepts, the last tables, layer by layer, whether names that look alike
# have become different things. The made-up names are only for reading: a model sees token numbers.

# %% tags=["hide-input"]
explorer.fact_explorer(pages.with_history(trained) | concepts.data["trained"])

# %% [markdown]
# Ranks and shares of a spelling model are those of whole names, by likelihood. A right first rank is nearly always, but
# not by definition, an exact greedy spelling.
#
# With a kernel, `explorer.live_fact_explorer()` trains both models on facts that *you* type, or on countries, their
# capitals and codes, and opens the same explorer on them. The table of countries comes from a package and is not
# checked against the world. A dozen typed facts are remembered, but hardly reversed: what "backward" means takes
# hundreds of them.
#
# ## Result
#
# Squares are means over the study's seeds with 95 % intervals, dots its single seeds, diamonds the run you just saw.
# The paper's dashes are approximate readings at another scale, and it is uncertain whether they are accuracies or MRR,
# so they stand in both figures, with the relation-blind ceilings of its $R = 6$ beside ours: they are for orientation.
# *Untrained* is the random start.

# %% tags=["hide-input"]
everything = trained | concepts.data["trained"]
fig = pages.score_figure(study, everything, "accuracy", "reversed facts answered", "Accuracy backwards", pages.PAPER)
explorer.beside(fig, "x", **levels, ceiling_of_the_paper=1 / 6)

# %% tags=["hide-input"]
title = "Mean reciprocal rank backwards, among all entities"
fig = pages.score_figure(study, everything, "mrr", "mean reciprocal rank", title, pages.PAPER_MRR)
explorer.beside(fig, "x", relation_blind_ceiling=names.values["blind mrr"], ceiling_of_the_paper=0.408)

# %% tags=["hide-input"]
x_title = "P: the right entity over another partner"
fig = pages.score_figure(study, everything, "over_partner", x_title, "Specific to the relation?")
explorer.beside(fig, "x", relation_blind_and_chance=0.5)

# %% [markdown]
# With a memory JEPA is far above both ceilings. Without one, in the steps that fit this page, its reversal is specific
# to the relation ($P$), but its accuracy is above the ceiling by no more than about the margin and its
# MRR about at the ceiling: inconclusive. The tied concepts are no clearer. Both are settled by stored runs below: *More
# patience*, and *The paper's size*.

# %% tags=["hide-input"]
fig = pages.chain_figure(study, chains.values, cfg, "right values", "Chained sums in one forward pass")
explorer.beside(fig, "x", chance=chains.values["chance"])

# %% [markdown]
# JEPA with a memory gives the most right values, but no model reaches the order-blind reader on the targets. Nothing
# here shows that sums are undone in the right direction.
#
# ### Entanglement, measured
#
# The argument for a memory: at the output of the recognition MLP $c = W h(\text{name})$, so a gradient step on entity
# $a$ moves entity $b$ by $\alpha\cdot\beta$, the overlap of their hidden activations. We take one small gradient step
# on one fact, through its subject's name alone, with *all* recognition weights, and look who moves. A memory's
# activations are one row each and overlap with nobody's.

# %% tags=["hide-input"]
explorer.overlap_figure(names.data["entanglement"])

# %% tags=["hide-input"]
print(f"correlation of overlap and contamination {names.claims['overlap-predicts'][0]:.3f}")
print("mean cosine of hidden activations over the study, layer by layer:")
explorer.layer_table(study)

# %% [markdown]
# Is the overlap a *predictor* of who is moved? With the last projection alone learning, it is, exactly; a test of this
# book checks that. With all weights learning, the layers below move as well, and the claim tests whether the argument
# survives that.
#
# ## What breaks it
#
# These need more than a chapter's five minutes. They are drawn from stored runs, by the same rule of verdicts; nothing
# is trained here. Fewer than three seeds conclude nothing.
#
# **One thing changed at a time.** *Untied*: the target gets a recognition module of its own, which the paper's argument
# predicts to fail. *Stop-gradient*: no gradient reaches the target. *Squared distance*: in place of the contrast, of
# vectors scaled to equal length, with gradients on both sides; *distance and stop-gradient*: with a stopped target.
# *Duplicates compete*: all 4 concepts of every fact are candidates, as in the authors' code, so that an entity that
# occurs twice is its own rival. *No LayerNorm*: the paper's plain JEPA. *Memory, equal weights*: the semantic MLP is
# widened until the model with a memory has as many weights as JEPA.

# %% tags=["hide-input"]
larger = paper.preset("long")
far = dict(relation_blind_ceiling=1 / larger.num_pairs, chance=1 / (larger.num_taught + larger.num_tested))
explorer.stored_figure(stored["ablations"], "ablations", **far)

# %% tags=["hide-input"]
explorer.stored_figure(
    stored["ablations"], "ablations", "test over_partner", "relation-specific accuracy", relation_blind_and_chance=0.5
)

# %% [markdown]
# Who loses the reversal, and who never learned the facts? The same questions as they were taught:

# %% tags=["hide-input"]
explorer.stored_figure(stored["ablations"], "ablations", "trained accuracy", "taught facts answered", **far)

# %% [markdown]
# With a recognition module of its own for the target JEPA knows every taught fact and reverses none. A stopped gradient
# and competing duplicates cost accuracy in every seed, but not by a margin that three seeds can tell.
# Both squared distances never learn the facts at all, so they say nothing of reversal. The paper's plain JEPA learns
# most facts and, at this size, reverses fewer than a blind reader would. A memory in a model of equal
# weights answers most of them.
#
# Which of them collapse? RankMe of the concepts at the end:

# %% tags=["hide-input"]
explorer.stored_figure(stored["ablations"], "ablations", "rankme", "RankMe of the concepts", collapsed=1.0)

# %% [markdown]
# **More sharing, more depth.** The more persons share a name token, and the deeper the recognition, the more one fact
# moves other entities, says the paper, because their hidden activations overlap more. Accuracy, overlap and
# contamination, each against both:

# %% tags=["hide-input"]
explorer.stored_figure(stored["entanglement"], "entanglement", **far)

# %% tags=["hide-input"]
explorer.stored_figure(stored["entanglement"], "entanglement", "overlap", "mean size of the overlap α·β / α·α")

# %% tags=["hide-input"]
explorer.stored_figure(stored["entanglement"], "entanglement", "contamination", "mean size of the contamination")

# %% [markdown]
# Accuracy falls and what others suffer, the contamination, grows as more persons share a token, as the paper says. The
# overlap of activations does not follow: its mean falls with sharing and is largest where no token is shared and hardly
# anybody is moved. So facts do leak between names that share tokens, but at this size the overlap at the last
# recognition layer is not what tells how much. One more layer of recognition changes nothing clearly, in neither of the
# three. Layer by layer, the mean cosine of activations:

# %% tags=["hide-input"]
explorer.layer_table(stored["entanglement"])

# %% [markdown]
# **More patience.** Does the autoregressive model only need more steps? And what do they give JEPA? Twice as many for
# each:

# %% tags=["hide-input"]
explorer.stored_figure(stored["patience"], "patience", **far)

# %% tags=["hide-input"]
explorer.stored_figure(
    stored["patience"], "patience", "test over_partner", "relation-specific accuracy", relation_blind_and_chance=0.5
)

# %% [markdown]
# JEPA only needed time: with twice the steps it clears the ceiling by far. The autoregressive model knows every fact
# forwards and, with a memory or without, gains nothing.

# %% [markdown]
# **The paper's size, one token per entity.** 2.5 thousand entities to teach, 1.5 thousand to test and $R = 6$, the
# smallest world of the paper's Table 1. Pilot runs whose rate fell from the beginning memorised everything
# and reversed next to nothing. Those that held the rate at its peak for most of the run, then let it fall, did reverse;
# without the fall a narrower model stayed near .64. (The paper's rate stays constant to the end.) The pilots
# changed width, heads, entities, steps and schedule together, so which of these is needed is not known. That
# forgetting, rate times weight decay, must go on while a model still memorises is our guess, not a result.
# Choices were made on pilot seeds 100 and 101, which are not in the study, by their score on reversed facts; the claims
# and their margins were written down after a pilot of .947 and before the seeds shown.

# %% tags=["hide-input"]
paper_size = paper.preset("large")
six = dict(
    relation_blind_ceiling=sum(1 / k for k in range(1, 7)) / 6,
    paper_with_one_layer=0.823,
    chance=1 / (paper_size.num_taught + paper_size.num_tested),
)
explorer.stored_figure(
    stored["large concepts"], "large concepts", "test mrr", "mean reciprocal rank, reversed facts", **six
)

# %% tags=["hide-input"]
explorer.stored_figure(
    stored["large concepts"],
    "large concepts",
    "test over_partner",
    "relation-specific accuracy",
    relation_blind_and_chance=0.5,
)

# %% [markdown]
# **More branches.** The same kind of sums with more branches at every node, trained longer (`chain_steps` of the preset
# `long`); targets, then the entities between:

# %% tags=["hide-input"]
explorer.stored_figure(stored["branching"], "branching", "answers", "right targets", chance=1 / larger.modulus)

# %% tags=["hide-input"]
explorer.stored_figure(stored["branching"], "branching", "inner", "right entities between", chance=1 / larger.modulus)

# %% [markdown]
# JEPA gains with the branches, and so does the order-blind reader, who is ahead on the targets at every branching: more
# sums narrow a value down without being undone. AR with a memory does not gain; at most branches it
# has not learned all taught values in these steps, so its gap there is partly a lack of training.
#
# For reference, what two frontier language models did with such problems *spelled out in the prompt* and with room to
# reason: right answers of 20, as found in the outputs that the authors published with their code (the
# two at branching 40 are second hand). Their problems are far larger, modulus 10,007 and thousands of facts, so this is
# no comparison with the figure above; it is what the first version of the paper compares its JEPA with, of which it
# says, second hand, that its accuracy stays high; the second version dropped that sentence from its abstract.

# %% tags=["hide-input"]
fig = figures.curves(pages.frontier(), "branching factor", "right answers", "Reference points of the paper, not ours")
explorer.beside(fig, chance_at_modulus_10007=1 / 10007)

# %% [markdown]
# ## Paper says, we measured, differs because

# %% tags=["hide-input"]
display(
    figures.verdict_table(claims.table(paper.CLAIMS, study), "Gains over the study's seeds; positive is as claimed")
)
for name, stated in paper.LONG_CLAIMS.items():
    display(figures.verdict_table(claims.table(stated, stored[name]), f"From the stored long runs: {name}"))

# %% [markdown]
# | claim | why ours can differ: explanations to test, not results |
# |---|---|
# | AR reverses nothing on names | at the paper's size the same; here with equal steps, batches and width, with and without a memory, spelled freely or chosen from a list. That AR knows the facts forwards is our control, not a number of the paper |
# | JEPA reverses | 640 entities instead of 80,000, $R = 3$ instead of 6, multiplicity 2 instead of 10. Pilot runs chose more heads, a narrower semantic MLP and faster forgetting (weight decay × rate) for every model. **The paper's plain JEPA, without a LayerNorm before the product, fails at this size**: it stays below the relation-blind ceiling, its $P$ is below the one half of a blind reader, and it has not even learned all it was taught. Our JEPA is the paper's with that LayerNorm, which the paper has only with a memory |
# | memory restores it | the layer is simplified without loss: with frozen keys and one row read, a name always finds the same row, so it is looked up once. **Its keys ignore the order of tokens**, so two names of the same tokens would collide; they are refused. In the chapter the model with a memory is the smaller one; the stored runs have one of equal size |
# | AR with a memory | not in the paper. The memory mends what is read; what is *spelled* is still tokens. Binding is needed on both sides |
# | concepts, tied and untied | the paper's table has MRR .82 to .98 at $R = 6$. These arms have a rate, a weight decay and a number of steps of their own. The chapter's own run has 640 entities, $R = 3$ and a rate that falls from the beginning; the stored run has the paper's smallest size and holds the rate (above) |
# | overlap predicts contamination | the argument is about one layer and the step of its weights; in training all weights move, and a name's own token vectors can take most of a step. See below how often the statistic was changed |
# | multiplicity and depth | the paper goes to 20 names per token and 6 layers. Two layers and 4 names are what this size holds. The paper compares 1 with 6 recognition layers under 6 semantic ones, we 1 with 2 under one |
# | forward chaining | modulus 23 against 10,007, branching 4 against 10 to 40: the mechanism, not the feat. That accuracy "stays high" is from the first version's abstract |
#
# ### What was changed after it had been written down
#
# - `concept-over-blind` was first stated for the mean reciprocal rank, the paper's measure, and changed to accuracy
# after pilot runs. Both are claims now. In this chapter's first study (five seeds, since replaced by the one shown)
# the mean MRR was .574, below the ceiling of .611, while accuracy cleared its own. The claims on the MRR of JEPA were
# added with it.
# - `jepa-over-blind` had a margin of 0. *Well above* is now .1, stated after the first study, whose mean of .554
# against .333, interval .39 to .71, would have left it open.
# - The statistic of `overlap-predicts` was changed four times. Contamination was centred; the correlation, first a mean
#   over several trained models, was taken over all pairs of entities; then per entity $a$ and averaged, after
#   correlations of .01 and .09 had been seen in trained pilot runs, so we expected it to fail. Last, with this study,
#   the overlap lost its centring, for less the mean its denominator can vanish. A correlation per entity needs no
#   centring; its sign could flip where that denominator was negative.
# - After this study the attention was computed in another order, for speed. Rounding alone then moves a single seed's
# accuracy by about a tenth, so the diamond and the study's dot of the same seed need not agree.
# - Equal scores used to count for the right answer, now against it. Of long runs, questions used to be the first of the
# list, all of one relation; now they are drawn from all.
# - The verdicts on stop-gradient, duplicates, plain regression and the plain JEPA, the order-blind reader, and the
#   closed choice were added after earlier runs of the same seeds had been seen, and the comparison of many branches
#   with AR + memory after the study on this page. The squared distance used to compare a vector with a learned gain
#   with one without, and *duplicates compete* used to list relations and mask once: both were run anew.
#
# - The three claims on concepts at the paper's size were stated, with their margins, after a pilot seed had reached an
# MRR of .947 and before the three seeds on this page.
#
# All sizes and rates were chosen on pilot seeds from 100 upwards, the margins were committed before the study.
#
# ## Exercises
#
# **1.** At $R = 6$ a model answers 17 % of the reversed facts, hundreds of times chance. Has it learned to reverse?
# What would you ask next?

# %% tags=["solution", "hide-cell"]
six = generated.generate(400, 240, 6, None, torch.Generator().manual_seed(seed))
ceiling = arms.ceiling(six)
print(f"relation-blind: accuracy {ceiling.accuracy:.3f}, MRR {ceiling.mrr:.3f}, chance {1 / six.num_entities:.4f}")
print("No reason to think so. Ask for P: does the right one beat the other five partners in more than half of cases?")

# %% [markdown]
# **2.** The authors log, for names, the mean reciprocal rank *per token*, the tokens before it given. Measure the share
# of right tokens, first and last, that the AR model gets on reversed facts, and explain why it is not zero.

# %% tags=["solution", "hide-cell"]
spelled, asked = trained["AR"].model, trained["AR"].facts.reversed
with torch.no_grad():
    right = spelled.logits(asked).argmax(-1) == spelled.spelling[asked[:, 2]]
print("right tokens by place", right.float().mean(0).tolist())
print("whole names", float(right.all(1).float().mean()))
print(f"A first name leaves {cfg.multiplicity} last names: a guess is right once in {cfg.multiplicity}.")

# %% [markdown]
# **3.** A reversal benchmark is worthless if the answer leaks into training. Try to build worlds that leak, repeat
# facts, or cannot exist, and read why they are refused.

# %% tags=["solution", "hide-cell"]
from dataclasses import replace

leak = torch.cat([data.taught, data.reversed[:1]])
for broken in (
    lambda: generated.check(replace(data, taught=leak)),
    lambda: generated.check(replace(data, taught=data.taught[[0, 0]])),
    lambda: generated.generate(20, 12, 3, 20, torch.Generator()),
):
    try:
        broken()
    except ValueError as reason:
        print("ValueError:", reason)

# %% [markdown]
# **4.** Which two names can the memory not tell apart? Provoke it, and say why recognition layers can.

# %% tags=["solution", "hide-cell"]
from jepa_lab.papers.reversal_curse.recognition import Memory

try:
    Memory(torch.tensor([[5, 6], [6, 5]]), vocabulary=10, width=16)
except ValueError as reason:
    print("ValueError:", reason)
print("Its key is the mean of the tokens' vectors; a causal block reads the last token in the light of the first.")

# %% [markdown]
# **5.** How many rounds of forward chaining do the targets need? Solve the sums by rule and count. Does depth 3 need
# more?

# %% tags=["solution", "hide-cell"]
for depth in (1, 2, 3):
    generator = torch.Generator().manual_seed(seed)
    tree = sums.generate(cfg.modulus, cfg.per_value, cfg.increments, 5, 2, generator, depth=depth)
    print(f"depth {depth}: targets known after {sorted(set(tree.rounds.tolist()))} rounds, {len(tree.train)} facts")

# %% [markdown]
# ## Run it larger
#
# ```bash
# # this chapter on a GPU: 16,000 entities, R = 6, multiplicity 10, width 256
# python -m jepa_lab run 11_reversal_curse --preset gpu --device cuda
# # one arm headless, with checkpoints; every variant of variants.VARIANTS has a name
# python -m jepa_lab train reversal_curse --preset gpu --out runs/reversal
# python -m jepa_lab train reversal_curse --preset paper -p arm="JEPA + memory" --out runs/reversal-paper
# # the study of this page, and a grid
# python -m jepa_lab batch 11_reversal_curse --seeds 0:5
# python -m jepa_lab batch 11_reversal_curse --seeds 0:5 --grid num_pairs=2,3,4
# # a stored long run: patience, entanglement, ablations, branching or large concepts
# python -c "from jepa_lab.papers.reversal_curse import long; long.long_study('ablations', seed=0)"
# ```
#
# The preset `paper` (80 thousand entities, width 768, 3 million steps, the published rate, weight decay and dropout) is
# checked at full size without computing it: `arms.footprint` gives its parameters, memory and operations. The rocket
# button at the top opens this page on Colab.

# %% tags=["hide-input"]
path = record.save()
saved = record.record
print(f"record {path.name}: {saved['wall_s']} s, peak {saved['peak_rss_mb']:.0f} MB, {saved['device']}")
print(f"torch {saved['versions']['torch']}")
