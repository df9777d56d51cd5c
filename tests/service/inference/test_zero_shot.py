"""The arithmetic of zero-shot classification, by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import yaml

from finetune.core.labels import NliRoles
from finetune.core.model_folder import ScoreFusion, ZeroShotSettings
from service.errors import BadRequest
from service.inference import zero_shot

pytestmark = pytest.mark.fast

ROLES = NliRoles(entailment=2, contradiction=0)


def collapse(logits, cosine=None, **more):
    options = {"roles": ROLES, "scorer": "nli", "fusion": ScoreFusion(), "multi_label": False} | more
    cosines = None if cosine is None else np.array(cosine, dtype=np.float64)
    return zero_shot.collapse(None if logits is None else np.array(logits), cosines, **options)


@pytest.mark.parametrize(
    "template",
    [
        *("", "about", "{} and {}", "{:>100000000}", "{0}", "{label}", None, 5),
        *("This is {{}}.", "{{}} {}", "{} is {label}", "a { in {}", "} {}", "{{{}}}", "{} {{literal}}"),
    ],
)
def test_a_template_without_exactly_one_blank_or_with_another_brace_is_refused_with_an_example(template):
    with pytest.raises(BadRequest, match=r"exactly one \{\} where the label goes and no other brace, as in"):
        zero_shot.check_template(template)


def test_a_template_is_filled_by_plain_replacement():
    template = zero_shot.check_template("It is {}, 100 % (of [it])\\n")
    assert zero_shot.fill(template, "{} sports {y}") == "It is {} sports {y}, 100 % (of [it])\\n"


def test_the_templates_of_what_ships_and_of_every_recipe_are_accepted():
    root = Path(__file__).parents[3]
    recorded = json.loads((root / "models" / "topics" / "classifier.json").read_text())["hypothesis_template"]
    recipes = [yaml.safe_load(file.read_text()) for file in (root / "finetune" / "recipes").glob("*.yaml")]
    templates = [one["zero_shot"]["hypothesis_template"] for one in recipes if "hypothesis_template" in str(one)]
    for template in (recorded, *templates, ZeroShotSettings().hypothesis_template):
        assert zero_shot.check_template(template) == template


def test_labels_come_from_a_list_or_from_a_string_with_commas():
    assert zero_shot.parse_labels(" sports, business ,,") == ("sports", "business")
    assert zero_shot.parse_labels(["food, drink", " art "]) == ("food, drink", "art")
    assert zero_shot.parse_labels("[x], (y), {z}") == ("[x]", "(y)", "{z}")
    assert zero_shot.parse_labels(["Sports", "sports"]) == ("Sports", "sports")


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ([], "there is no label"),
        (" , ", "there is no label"),
        (["a", " "], "label 2 of 2 is empty"),
        (["a", "b", "a "], "'a' is given twice: labels 1 and 3 are the same"),
        (["caf\u00e9", "cafe\u0301"], "is given twice: labels 1 and 2"),
        (["a\u00a0b", "a b"], "is given twice"),
        (["sport\u200b", "law", "\ufeffsport"], "is given twice: labels 1 and 3"),
        (["a", "\u200b"], "label 2 of 2 is empty"),
        (["a", "\u00a0"], "label 2 of 2 is empty"),
        ("['sports', 'law']", "are a list written as text: pass the list itself"),
        ('["sports"]', "are a list written as text"),
        ("('sports', 'law')", "are a list written as text"),
        (["a", 3], "must be a string, not int"),
        (None, "not NoneType"),
        ({"a": 1}, "not dict"),
    ],
)
def test_labels_that_cannot_be_used_are_refused_with_what_is_wrong(labels, sentence):
    with pytest.raises(BadRequest, match=sentence):
        zero_shot.parse_labels(labels)


def test_one_of_many_is_a_softmax_of_entailment_over_the_labels():
    scores = collapse([[[9.0, 9.0, math.log(1)], [-3.0, 0.0, math.log(3)]]])
    assert scores == pytest.approx(np.array([[0.25, 0.75]]))


def test_several_at_once_is_entailment_against_contradiction_for_each_label():
    scores = collapse([[[0.0, 99.0, math.log(3)], [math.log(4), -99.0, 0.0]]], multi_label=True)
    assert scores == pytest.approx(np.array([[0.75, 0.2]]))


def test_a_single_label_is_scored_against_contradiction_as_in_the_stock_pipeline():
    assert collapse([[[0.0, 5.0, math.log(3)]]]) == pytest.approx(np.array([[0.75]]))


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("scorer", ["nli", "both"])
def test_huge_logits_still_give_finite_scores(scorer, multi_label):
    logits = [[[1e4, 0.0, -1e4], [-1e4, 0.0, 1e4]]]
    scores = collapse(logits, [[0.1, 0.2]], scorer=scorer, multi_label=multi_label)
    assert np.isfinite(scores).all() and scores[0, 1] > 0.99 > 0.01 > scores[0, 0]


def test_the_embedding_scorer_is_a_softmax_or_a_sigmoid_of_the_cosine():
    mix = ScoreFusion(cosine_weight=math.log(3), cosine=2.0, bias=-1.0)
    assert collapse(None, [[1.0, 0.0]], scorer="embedding", fusion=mix) == pytest.approx(np.array([[0.75, 0.25]]))
    several = collapse(None, [[0.5, 1.5]], scorer="embedding", fusion=mix, multi_label=True)
    assert several == pytest.approx(np.array([[0.5, 1 / (1 + math.exp(-2.0))]]))


def test_the_fused_scorer_adds_the_cosine_to_the_log_probability_of_entailment():
    mix = ScoreFusion(cosine_weight=2.0, nli=0.5, cosine=3.0, bias=0.25)
    logits = [[[1.0, 0.5, 2.0], [0.0, 0.0, -1.0]]]
    log_p = [2.0 - math.log(math.exp(1) + math.exp(0.5) + math.exp(2)), -1.0 - math.log(2 + math.exp(-1))]
    raw = [math.exp(log_p[0] + 2.0 * 0.3), math.exp(log_p[1] + 2.0 * 0.6)]
    expected = [value / sum(raw) for value in raw]
    assert collapse(logits, [[0.3, 0.6]], scorer="both", fusion=mix)[0] == pytest.approx(expected)
    several = collapse(logits, [[0.3, 0.6]], scorer="both", fusion=mix, multi_label=True)[0]
    margins = [0.5 * (2.0 - 1.0) + 3.0 * 0.3 + 0.25, 0.5 * (-1.0 - 0.0) + 3.0 * 0.6 + 0.25]
    assert several == pytest.approx([1 / (1 + math.exp(-margin)) for margin in margins])


def test_the_cosine_of_an_empty_embedding_is_zero():
    texts = np.array([[[3.0, 4.0]], [[0.0, 0.0]]])
    assert zero_shot.cosines(texts, np.array([[4.0, 3.0], [1.0, 0.0]])) == pytest.approx(
        np.array([[0.96, 0.6], [0, 0]])
    )
