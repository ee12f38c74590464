"Tokens of a text: their pieces joined are the text, for tokenizers of several families, and as HTML they are only text."

import re
from html import unescape

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE, Unigram, WordPiece
from transformers import PreTrainedTokenizerFast

from empathy_probes.evidence.tokens import LINE_BREAK, Scale, ShadedTexts, class_scale, mean_value, measure_pieces, shown_texts, text_pieces, token_projections
from empathy_probes.machine.concepts import load_concept
from empathy_probes.machine.models import load_tokenizer
from empathy_probes.machine.presets import load_preset
from empathy_probes.machine.weights import byte_tokenizer
from empathy_probes.method.activations import extract, tokenize
from empathy_probes.method.directions import project, random_direction

TEXTS = [
    "A player is crying beside the goal.",
    "  two  blanks, and at the end  ",
    "a line\n\nand\r\n\tanother\n",
    "ünïcödé, 10 € ½ ﬁne, x\u0301 and 🫗 👩‍🚀 🏳️‍🌈",
    "שלום עולם، مرحبا بالعالم 你好。",
    '<b>bold</b> &amp; <script>alert("1")</script> \'&lt;\' <img src=x onerror=alert(1)>',
    "<s> </s> [CLS] <pad> <|im_end|> ▁ Ġ ## �",
    "\u202eturned round\u202c, no\u00a0break, soft\u00adhyphen, zero\u200bwidth",
    "a",
    " ",
    "\n",
    "🫗",
    "",
]
CORPUS = [text for text in TEXTS if "<" not in text] * 3 + ["The quick brown fox sat down and asked where the well was."] * 3


def trained(model, trainer, *, before, after=None, normalizer=None, decoder=None, **specials):
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = before
    if normalizer:
        tokenizer.normalizer = normalizer
    if decoder:
        tokenizer.decoder = decoder
    tokenizer.train_from_iterator(CORPUS, trainer)
    if after:
        tokenizer.post_processor = after(tokenizer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **specials)


def gpt2_like():
    "Byte-level BPE, whose tokens' places leave out the blank before a word."
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    before = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return trained(BPE(), trainer, before=before, after=lambda _: processors.ByteLevel(trim_offsets=True), decoder=decoders.ByteLevel())


def llama_like():
    "BPE with a sign for blanks, one more of them in front, bytes for unknown characters and a token for the beginning."
    pieces = ["<unk>", "<s>", "</s>", *[f"<0x{byte:02X}>" for byte in range(256)], "▁", *"abcdefghijklmnopqrstuvwxyz", "an", "▁a"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(BPE(vocabulary, [("a", "n"), ("▁", "a")], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def t5_like():
    "Unigrams after Unicode normalisation, and a token for the end."
    trainer = trainers.UnigramTrainer(vocab_size=200, unk_token="<unk>", special_tokens=["<unk>", "</s>"], show_progress=False)
    after = lambda tokenizer: processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))])
    before, normalizer = pre_tokenizers.Metaspace(), normalizers.NFKC()
    return trained(Unigram(), trainer, before=before, after=after, normalizer=normalizer, eos_token="</s>", unk_token="<unk>")


def bert_like():
    "Word pieces in lower case without accents, blanks thrown away, and tokens at both ends."
    names = ["[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=names, show_progress=False)

    def after(tokenizer):
        return processors.BertProcessing(*[(name, tokenizer.token_to_id(name)) for name in ("[SEP]", "[CLS]")])

    options = {"before": pre_tokenizers.BertPreTokenizer(), "normalizer": normalizers.BertNormalizer(), "after": after}
    return trained(WordPiece(unk_token="[UNK]"), trainer, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", **options)


def real(key):
    return lambda: load_tokenizer(load_preset("mini").models[key])


TOKENIZERS = {
    "bytes": byte_tokenizer,
    "gpt2-like": gpt2_like,
    "llama-like": llama_like,
    "t5-like": t5_like,
    "bert-like": bert_like,
    "smollm2": real("smollm2-135m"),
    "gemma3": real("gemma3-270m"),
}


@pytest.fixture(scope="module", params=TOKENIZERS)
def any_tokenizer(request):
    return TOKENIZERS[request.param]()


def shaded(tokenizer, text):
    "A text whose tokens have values on both sides of 0 and beyond the deepest shade."
    ids, pieces = text_pieces(tokenizer, text)
    return ShadedTexts("a model", {"a heading": measure_pieces(pieces, np.resize([0.01, -0.5, 1.7, 9, -4], len(ids)), Scale(0, 1))})


def visible(html):
    "What a browser shows of a text in `_repr_html_`, line breaks and all."
    body = re.search(r'<div dir="auto"[^>]*>(.*?)</div></section>', html, re.DOTALL)[1]
    return unescape(re.sub(r"<[^>]*>", "", body.replace(LINE_BREAK, "\n")))


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_pieces_joined_are_the_text_and_every_token_is_in_one(any_tokenizer, text):
    ids, pieces = text_pieces(any_tokenizer, text)
    assert "".join(piece.text for piece in pieces) == text
    assert [place for piece in pieces for place in piece.tokens] == list(range(len(ids)))
    if ids:
        assert ids == tokenize(any_tokenizer, [text])[0]


def test_a_cut_text_keeps_its_end_as_a_piece_without_a_token(any_tokenizer):
    text = "A player is crying beside the goal, and nobody is there to ask what happened."
    ids, pieces = text_pieces(any_tokenizer, text, max_tokens=6)
    assert len(ids) == 6 and pieces[-1].tokens == [] and text.endswith(pieces[-1].text) and pieces[-1].text
    assert "".join(piece.text for piece in pieces) == text


@pytest.mark.parametrize("text", [text for text in TEXTS if text and "\r" not in text], ids=ascii)
def test_a_text_in_html_is_shown_as_it_is_and_holds_no_markup(any_tokenizer, text):
    html = shaded(any_tokenizer, text)._repr_html_()
    assert visible(html) == text
    assert set(re.findall(r"<(\w+)", html)) <= {"div", "b", "span", "section", "br"}
    assert "\n" not in html  # a blank line would end the HTML in a page of Markdown


def test_a_character_of_several_tokens_is_one_piece():
    ids, pieces = text_pieces(byte_tokenizer(), "a 🫗 é")
    assert [(piece.text, len(piece.tokens)) for piece in pieces] == [("a", 1), (" ", 1), ("🫗", 4), (" ", 1), ("é", 2)]
    measured = measure_pieces(pieces, [99, 0, 1, 2, 3, 6, 0, 4, 8], Scale(0, 1))
    assert measured.value[1:].tolist() == [0, 3, 0, 6] and np.isnan(measured.value[0])


def test_signs_stand_for_shades_where_there_are_none(any_tokenizer):
    text = "A player asked me where the well was. \n\nNobody 🫗 knew."
    marked = repr(shaded(any_tokenizer, text)).split("\n", 4)[4]
    assert re.sub(r"\[(.*?)(\+|-)\2?\]", r"\1", marked, flags=re.DOTALL) == text and "[" in marked


def test_a_hostile_heading_and_title_stay_text():
    html = ShadedTexts("<script>1</script>", {"<img src=x>": measure_pieces([], [], Scale(0, 1))})._repr_html_()
    assert "<script" not in html and "<img" not in html and "no text" in html


def test_the_mean_over_the_tokens_is_the_projection_of_the_text(family, tokenizer):
    "In every family of models, also for a text in which characters have several tokens."
    direction, generator = random_direction(32, "tokens"), np.random.default_rng(0)
    positive, negative = generator.normal(size=(2, 6, 32)) + 0.5 * np.stack([direction, -direction])[:, None]
    scale = class_scale(direction, positive, negative)
    assert scale.distance == pytest.approx((project(positive, direction) - project(negative, direction)).mean())
    for text in ("A player is crying beside the goal.", "ünïcödé 🫗"):
        ids, pieces = text_pieces(tokenizer, text)
        measured = measure_pieces(pieces, token_projections(family, ids, 2, direction), scale)
        pooled = project(extract(family, tokenizer, [text], [2], "mean_without_first")[0, 0], direction)
        assert mean_value(measured) == pytest.approx((pooled - scale.midpoint) / scale.distance, rel=1e-3, abs=1e-3)


def test_the_shown_texts_are_those_of_the_sections():
    concept = load_concept("empathy")
    shown = shown_texts(concept)
    assert shown["hard pair"]["positive"] == concept.hard_pairs.positive[0]
    assert shown["crossed texts"]["deed and words"] == concept.crossed.deed_and_words.iloc[-1]
    assert shown["test pair"]["negative"] in set(concept.pairs[concept.pairs.split == "test"].negative)
