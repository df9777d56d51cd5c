"""The Python pipelines stand in for those of transformers, and the other way round."""

from __future__ import annotations

import json
import shutil
import types
from collections.abc import Iterator

import numpy as np
import pytest
from checkpoints import save_classifier

from finetune.core.errors import CheckpointError
from service import Classifier, ZeroShotClassifier, load
from service.errors import BackendFailed, BadRequest

pytestmark = pytest.mark.fast

TEXTS = ["I loved it.", "an awful film, and a long one", "", "the match " * 200, "I loved it."]
SHORT = [text for text in TEXTS if text and len(text) < 100]
LABELS = ["sports", "business", "the planet"]
TEMPLATE = "This text is about {}."


@pytest.fixture(scope="module")
def sentiment(tiny_sentiment):
    return Classifier(tiny_sentiment)


@pytest.fixture(scope="module")
def nli(tiny_nli):
    return ZeroShotClassifier(tiny_nli)


@pytest.fixture(scope="module")
def topics(tiny_topics):
    return ZeroShotClassifier(tiny_topics)


@pytest.fixture(scope="module")
def stock(tiny_sentiment):
    from transformers import pipeline

    return pipeline("text-classification", model=str(tiny_sentiment), device="cpu")


@pytest.fixture(scope="module")
def stock_zero_shot(tmp_path_factory):
    """The stock pipeline finds contradiction by position, so its folder has it first."""
    from transformers import pipeline

    folder = save_classifier(
        tmp_path_factory.mktemp("mnli") / "mnli", ["contradiction", "neutral", "entailment"], seed=5
    )
    return folder, pipeline("zero-shot-classification", model=str(folder), device="cpu")


def same(ours, theirs):
    """Equal shapes and labels, and scores to float32."""
    assert type(ours) is type(theirs)
    if isinstance(ours, dict):
        assert list(ours) == list(theirs)
        for key in ours:
            same(ours[key], theirs[key])
    elif isinstance(ours, list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            same(one, other)
    elif isinstance(ours, float):
        assert ours == pytest.approx(theirs, abs=2e-6)
    else:
        assert ours == theirs


PAIR = {"text": "I loved it.", "text_pair": "a great film"}


@pytest.mark.parametrize("options", [{}, {"top_k": None}, {"top_k": 1}, {"top_k": 5}, {"function_to_apply": "sigmoid"}])
@pytest.mark.parametrize("inputs", ["I loved it.", SHORT, ["one"], PAIR, [PAIR, PAIR | {"text": "a"}], [""]])
def test_text_classification_has_the_shape_and_scores_of_the_stock_pipeline(sentiment, stock, inputs, options):
    same(sentiment(inputs, **options), stock(inputs, **options))


@pytest.mark.parametrize("function", ["softmax", "none"])
def test_every_function_gives_the_scores_of_the_stock_pipeline(sentiment, stock, function):
    same(sentiment(SHORT, top_k=None, function_to_apply=function), stock(SHORT, top_k=None, function_to_apply=function))


def test_an_iterator_is_answered_by_an_iterator_that_does_not_read_it_all(sentiment, stock):
    taken = []

    def endless() -> Iterator[str]:
        while True:
            taken.append(1)
            yield "I loved it."

    answers = sentiment(endless())
    assert isinstance(answers, types.GeneratorType) and not taken
    assert next(answers) == next(iter(stock(text for text in SHORT))) | {"score": pytest.approx(0.99, abs=0.5)}
    assert len(taken) < 1000


@pytest.mark.parametrize("kind", [tuple, np.array, lambda texts: dict.fromkeys(texts).keys()])
def test_any_collection_of_texts_gives_a_list_in_input_order(sentiment, kind):
    texts = ["the film", "a", "the match and the market"]
    inputs = kind(texts)
    same(sentiment(inputs), sentiment(texts))


def test_a_datasets_column_can_be_classified(sentiment):
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict({"text": SHORT})
    assert len(sentiment(table["text"])) == len(SHORT)
    assert len(list(sentiment(iter(table["text"])))) == len(SHORT)


def test_a_torch_dataset_can_be_classified(sentiment):
    class Films:  # as torch.utils.data.Dataset has it: a length and items, and no end of its own
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return f"film {index}"

    assert sentiment(Films()) == sentiment(["film 0", "film 1", "film 2"])


def test_results_come_in_input_order_whatever_the_lengths_and_the_batch_size(sentiment):
    texts = [f"the film {'good ' * (index % 17)}" for index in range(40)]
    alone = [sentiment(text)[0] for text in texts]
    for batch_size in (1, 7, 64):
        together = sentiment(texts, batch_size=batch_size)
        assert [one["label"] for one in together] == [one["label"] for one in alone]
        assert [one["score"] for one in together] == pytest.approx([one["score"] for one in alone], abs=1e-6)


def test_no_texts_give_no_results(sentiment, topics):
    assert sentiment([]) == [] and topics([], LABELS) == []


def test_text_that_no_tokenizer_likes_is_classified(sentiment):
    texts = ["\ud800 broken", "[SEP] [CLS] [PAD]", "\x00\x01", "word " * 5000, "ünïcödé 漢字"]
    assert all(0.5 <= one["score"] <= 1.0 for one in sentiment(texts))


def test_a_special_token_inside_a_text_stays_text(sentiment):
    (row,) = sentiment.engine._runner.encoder(["good [SEP] bad"])
    assert row.ids.tolist().count(3) == 1  # [SEP]


@pytest.mark.parametrize(
    ("inputs", "options", "sentence"),
    [
        ([3], {}, "not int"),
        (None, {}, "not NoneType"),
        ({"text": "a", "texts": "b"}, {}, "unknown key 'texts'"),
        ({"text_pair": "b"}, {}, "a text must be a string"),
        ("a", {"top_k": 0}, "top_k must be a whole number from 1"),
        ("a", {"function_to_apply": "tanh"}, "use one of default, softmax, sigmoid, none"),
        ("a", {"attention": "sideways"}, "use one of ordinary, shared_text"),
        (["a"], {"batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_a_wrong_argument_is_one_clear_sentence(sentiment, inputs, options, sentence):
    with pytest.raises(BadRequest, match=sentence):
        sentiment(inputs, **options)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("labels", [LABELS, "sports, business,the planet", ["sports"]])
@pytest.mark.parametrize("texts", ["the match was great", ["the match", "a bank and a long, long film"]])
def test_zero_shot_has_the_shape_and_scores_of_the_stock_pipeline(stock_zero_shot, texts, labels, multi_label):
    folder, stock = stock_zero_shot
    ours = ZeroShotClassifier(folder)(texts, labels, multi_label=multi_label)
    same(ours, stock(texts, labels, multi_label=multi_label, hypothesis_template=TEMPLATE))


def test_a_long_text_is_cut_and_its_hypothesis_is_not_as_in_the_stock_pipeline(stock_zero_shot):
    folder, stock = stock_zero_shot
    text = "the match and the market " * 60
    # the stock pipeline cuts a text anew for each label; here it is cut once, for the longest
    labels = ["sports", "business", "science"]
    same(ZeroShotClassifier(folder)(text, labels), stock(text, labels, hypothesis_template=TEMPLATE))


def test_contradiction_is_found_by_name_wherever_it_stands(nli, tiny_nli):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    result = nli("the match", ["sports"], multi_label=True)
    model, tokenizer = (
        kind.from_pretrained(str(tiny_nli)) for kind in (AutoModelForSequenceClassification, AutoTokenizer)
    )
    logits = (
        model(**tokenizer("the match", "This text is about sports.", return_tensors="pt")).logits[0].detach().numpy()
    )
    entailment, contradiction, _neutral = logits.astype(float)
    assert result["scores"] == pytest.approx([1 / (1 + np.exp(contradiction - entailment))], abs=1e-6)


def test_a_two_class_nli_model_works(tmp_path):
    two = ZeroShotClassifier(save_classifier(tmp_path / "two", ["not_entailment", "entailment"], seed=3))
    one, several = two("the match", LABELS), two("the match", LABELS, multi_label=True)
    assert (sum(one["scores"]) == pytest.approx(1.0) and one["labels"] == several["labels"]) or len(
        several["scores"]
    ) == 3


def test_a_model_that_is_no_nli_model_is_refused_by_name(tiny_sentiment):
    with pytest.raises(BadRequest, match=r"sentiment cannot classify by labels of your own.*negative, positive"):
        ZeroShotClassifier(tiny_sentiment)


def test_columns_come_back_as_columns_under_names_that_are_free(tiny_sentiment, topics):
    model = Classifier(tiny_sentiment)
    texts = ["the match", "a film"]
    assert model({"text": texts}) == {key: [one[key] for one in model(texts)] for key in ("label", "score")}
    assert set(model({"text": texts, "label": [0, 1]}, top_k=None)) == {"predicted_label", "score"}
    pairs = model({"text": texts, "text_pair": ["a", "b"]})
    assert pairs["score"][1] == pytest.approx(model({"text": "a film", "text_pair": "b"})["score"], abs=1e-6)
    found = topics({"text": texts}, LABELS)
    assert found["labels"] == [one["labels"] for one in topics(texts, LABELS)]
    with pytest.raises(BadRequest, match="text has 2 values and text_pair 1 values"):
        model({"text": texts, "text_pair": ["a"]})
    with pytest.raises(BadRequest, match="text has 2 values and text_pair one string"):
        model({"text": texts, "text_pair": "ab"})
    with pytest.raises(BadRequest, match="`text` must be a list of strings"):
        topics({"review": texts}, LABELS)
    with pytest.raises(BadRequest, match="truncation cannot be turned off"):
        model(texts, truncation=False)


@pytest.mark.parametrize("scorer", ["nli", "embedding", "both"])
@pytest.mark.parametrize("attention", ["ordinary", "shared_text"])
@pytest.mark.parametrize("multi_label", [False, True])
def test_a_texts_scores_do_not_depend_on_the_other_texts(topics, scorer, attention, multi_label):
    options = {"scorer": scorer, "attention": attention, "multi_label": multi_label}
    texts = ["the match", "a bank", "the film " * 90, "it", "the match"]
    together = topics(texts, LABELS, **options)
    for text, among_others in zip(texts, together, strict=True):
        alone = topics(text, LABELS, **options)
        assert alone["labels"] == among_others["labels"]
        assert alone["scores"] == pytest.approx(among_others["scores"], abs=2e-6)


def test_the_recorded_scorer_and_attention_are_the_default(topics):
    recorded = topics("the match", LABELS)
    same(recorded, topics("the match", LABELS, scorer="both", attention="shared_text"))
    others = [topics("the match", LABELS, scorer="nli"), topics("the match", LABELS, attention="ordinary")]
    assert all(other["scores"] != pytest.approx(recorded["scores"], abs=1e-4) for other in others)


def test_embeddings_under_ordinary_attention_come_from_a_pass_of_the_text_alone(topics):
    alone = topics("the match", LABELS, scorer="embedding", attention="ordinary")
    same(alone, topics("the match", LABELS, scorer="embedding", attention="shared_text"))


def test_a_label_is_scored_alike_among_any_other_labels(topics):
    few = topics("the match", ["sports", "business"], multi_label=True)
    many = topics("the match", [*LABELS, "football", "money"], multi_label=True)
    scores = dict(zip(many["labels"], many["scores"], strict=True))
    for label, score in zip(few["labels"], few["scores"], strict=True):
        assert score == pytest.approx(scores[label], abs=2e-6)


@pytest.mark.parametrize(
    ("arguments", "options", "sentence"),
    [
        (("", LABELS), {}, "the text is empty"),
        ((["a", ""], LABELS), {}, "text 2 of 2 is empty"),
        ((["a", None], LABELS), {}, "text 2 of 2 must be a string, not NoneType"),
        ((7, LABELS), {}, "not int"),
        (("a", []), {}, "there is no label"),
        (("a", LABELS), {"hypothesis_template": "no blank"}, "exactly one"),
        (("a", LABELS), {"scorer": "votes"}, "use one of nli, embedding, both"),
        (("a", ["word " * 200]), {}, "shorten it"),
    ],
)
def test_a_wrong_request_is_one_clear_sentence(topics, arguments, options, sentence):
    with pytest.raises(BadRequest, match=sentence):
        topics(*arguments, **options)


def test_load_gives_the_classifier_that_fits_the_model(tiny_models):
    assert isinstance(load("sentiment", models_dir=tiny_models), Classifier)
    assert isinstance(load("topics", models_dir=tiny_models), ZeroShotClassifier)
    assert isinstance(load(tiny_models / "topics"), ZeroShotClassifier)
    assert load("sentiment", models_dir=tiny_models).labels == ("negative", "positive")


def test_an_unknown_name_is_refused_with_the_names_there_are(tiny_models):
    with pytest.raises(CheckpointError, match=r"no model 'sentimental'.*served: sentiment, topics.*Hub"):
        load("sentimental", models_dir=tiny_models)
    with pytest.raises(CheckpointError, match=r"no model '\./nowhere'"):
        load("./nowhere", models_dir=tiny_models)


def test_a_headless_base_is_refused(tiny_base):
    with pytest.raises(BackendFailed, match=r"not a classifier's, classifier.bias, classifier.weight is missing"):
        load(tiny_base)


def test_a_pickle_is_refused(tiny_sentiment, tmp_path):
    folder = shutil.copytree(tiny_sentiment, tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="only as a pickle"):
        load(folder)


def test_weights_that_are_not_numbers_are_an_error_and_never_an_answer(tiny_sentiment, tmp_path):
    from safetensors.numpy import load_file, save_file

    folder = shutil.copytree(tiny_sentiment, tmp_path / "nan")
    weights = load_file(folder / "model.safetensors")
    weights["classifier.bias"][:] = np.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BackendFailed, match="nan returned a logit that is not a finite number"):
        load(folder)("the film")


def test_a_regression_model_gives_its_name_and_the_value_itself(tmp_path):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    folder = save_classifier(tmp_path / "stars", ["stars"], problem_type="regression")
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    model = AutoModelForSequenceClassification.from_pretrained(str(folder))
    with torch.no_grad():
        value = model(**tokenizer("the film", return_tensors="pt")).logits.item()
    assert load(folder)("the film") == [{"label": "stars", "score": pytest.approx(value, abs=1e-5)}]
    same(load(folder)("the film"), pipeline("text-classification", model=str(folder), device="cpu")("the film"))


def test_several_labels_at_once_get_a_sigmoid_each(tmp_path):
    folder = save_classifier(tmp_path / "tags", ["joy", "anger", "fear"], problem_type="multi_label_classification")
    from transformers import pipeline

    same(
        load(folder)(SHORT, top_k=None),
        pipeline("text-classification", model=str(folder), device="cpu")(SHORT, top_k=None),
    )


def test_the_recorded_temperature_softens_the_scores(tiny_sentiment, tmp_path):
    folder = shutil.copytree(tiny_sentiment, tmp_path / "soft")
    settings = {"format": 1, "task": "binary", "activation": "softmax", "temperature": 2.0}
    (folder / "classifier.json").write_text(json.dumps(settings), encoding="utf-8")
    (hard,), (soft,) = load(tiny_sentiment)("the film"), load(folder)("the film")
    odds = [np.log(one["score"] / (1 - one["score"])) for one in (hard, soft)]
    assert odds[0] == pytest.approx(2 * odds[1], rel=1e-3)


def test_probabilities_are_an_array_in_the_order_of_the_labels(tiny_sentiment, tiny_topics, tmp_path):
    texts = ["a film", {"text": "a film", "text_pair": "bad"}, "awful"]
    model = Classifier(tiny_sentiment)
    found = model.predict_proba(texts)
    assert found.shape == (3, 2) and model.classes_.tolist() == ["negative", "positive"]
    for row, answer in zip(found, model(texts, top_k=None), strict=True):
        assert dict(zip(model.classes_, row, strict=True)) == {
            one["label"]: pytest.approx(one["score"], abs=2e-6) for one in answer
        }
    assert model.predict_proba([]).shape == (0, 2) and model.predict_proba(np.array(["a film"])).shape == (1, 2)
    with pytest.raises(BadRequest, match=r"write \[text\] for a single one"):
        model.predict_proba("a film")
    topics, labels = ZeroShotClassifier(tiny_topics), ["sports", "business", "bank"]
    answer = topics("the match", labels)
    expected = [answer["scores"][answer["labels"].index(label)] for label in labels]
    assert topics.predict_proba(["the match"], labels)[0] == pytest.approx(expected, abs=2e-6)
    number = save_classifier(tmp_path / "number", ["stars"], settings={"task": "regression", "activation": "linear"})
    with pytest.raises(BadRequest, match="number predicts a number and has no probabilities"):
        Classifier(number).predict_proba(["a"])
