"""Candidate labels with descriptions and trees, as people write them."""

from __future__ import annotations

import pytest

from service.batch.label_file import read_labels
from service.errors import BadRequest
from service.inference.identifiers import spelled_out
from service.inference.label_parsing import Labels, labels_of
from service.inference.label_wording import wording_of
from service.schema import LabelText, ZeroShotRequest

pytestmark = pytest.mark.fast

BILLING = LabelText("questions about invoices", ("money matters",), ("I was charged twice.",))


def test_names_without_descriptions_are_read_as_before():
    assert labels_of(["a", "b"]) == labels_of("a, b") == Labels(("a", "b"))


def test_a_list_of_objects_and_a_mapping_mean_the_same():
    fields = {
        "description": BILLING.description,
        "phrasings": list(BILLING.phrasings),
        "examples": list(BILLING.examples),
    }
    expected = Labels(("billing", "other"), (("billing", BILLING),))
    assert labels_of([{"name": "billing", **fields}, "other"]) == expected
    assert labels_of({"billing": fields, "other": None}) == expected
    assert labels_of([{"billing": fields}, "other"]) == expected


def test_a_tree_gives_paths_and_descriptions_above_the_labels():
    nested = {"science": {"space": "rockets", "medicine": None}, "sport": ["hockey", "baseball"]}
    names = ("science > space", "science > medicine", "sport > hockey", "sport > baseball")
    assert labels_of(nested) == Labels(names, (("science > space", LabelText("rockets")),))
    children = {"name": "science", "description": "research", "children": ["space", {"name": "medicine"}]}
    assert labels_of([children, "sport"]) == Labels(
        ("science > space", "science > medicine", "sport"), (("science", LabelText("research")),)
    )


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ([{"description": "x"}], "label 1 has no name"),
        (["a", {}], "label 2 has no name"),
        ([{"name": "a"}, 3], "label 2 is int"),
        ([{"name": 3}], "the label 3 must be a string, not int"),
        ([{"name": "a", "meaning": "x"}], "unknown key 'meaning' in the label 'a'"),
        ([{"name": "a", "description": 3}], "description of the label 'a' must be a string"),
        ([{"name": "a", "phrasings": "x"}], "phrasings of the label 'a' must be a list of strings"),
        ([{"name": "a", "examples": [" "]}], "examples of the label 'a' must be a list of strings that are not empty"),
        ([{"name": "a"}, {"name": "a "}], "is given twice"),
        ([{"name": " "}], "label 1 of 1 is empty"),
        ({"a": {"description": "x", "space": "y"}}, "has the key 'space' beside description"),
        ({"a": 3}, "'a' has a value of type int"),
        ({}, "there is no label"),
        ({"a": {"b": {" ": None}}}, "is empty"),
    ],
)
def test_what_is_no_label_is_refused_with_what_is_wrong(labels, sentence):
    with pytest.raises(BadRequest, match=sentence):
        labels_of(labels)


def test_nesting_ends_somewhere():
    labels: object = "x"
    for _ in range(40):
        labels = {"a": labels}
    with pytest.raises(BadRequest, match="nested 16 levels deep"):
        labels_of(labels)


def test_a_yaml_file_holds_descriptions_trees_and_words_that_yaml_reads_as_values(tmp_path):
    file = tmp_path / "labels.yaml"
    file.write_text("billing:\n  description: questions about invoices\nno: ~\n007:\nsport:\n  - hockey\n  - 'null'\n")
    assert read_labels(file) == Labels(
        ("billing", "no", "007", "sport > hockey", "sport > null"),
        (("billing", LabelText("questions about invoices")),),
    )
    file.write_text("- name: billing\n  phrasings: [money]\n- other\n")
    assert read_labels(file) == Labels(("billing", "other"), (("billing", LabelText(phrasings=("money",))),))


def test_a_text_file_holds_a_name_on_each_line(tmp_path):
    file = tmp_path / "labels.txt"
    file.write_text("\ufeffsports: a label\n\n business \n", encoding="utf-8")
    assert read_labels(file) == Labels(("sports: a label", "business"))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("a: x\na: y\n", "the label 'a' is there twice"),
        ("a: &n [b, c]\nd: *n\n", "alias"),
        ("a: [b\n", "cannot be read as YAML"),
        ("just words\n", "holds one text"),
        ("", "has no label"),
        ("- name: a\n  samples: [x]\n", "labels.yaml: unknown key 'samples'"),
    ],
)
def test_a_label_file_that_cannot_be_used_is_refused(tmp_path, content, sentence):
    file = tmp_path / "labels.yaml"
    file.write_text(content)
    with pytest.raises(BadRequest, match=sentence):
        read_labels(file)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["book_flight", "top_up_by_SWIFT"], ["book flight", "top up by SWIFT"]),
        (["sci.space", "comp.os.ms-windows.misc"], ["sci space", "comp os ms-windows misc"]),
        (["bookFlight"], ["book flight"]),
        (["AddToPlaylist", "PlayMusic"], ["add to playlist", "play music"]),
    ],
)
def test_identifiers_are_spelled_out(names, words):
    assert spelled_out(names) == tuple(words)


@pytest.mark.parametrize(
    "name",
    [
        *("sports", "food, drink", "customer service", "e-mail", "AT&T", "C++", "C#", "U.S.", "v1.2", "e.g."),
        *("YouTube", "GitHub", "iPhone", "macOS", "node.js", "example.com", "a_b c", "_", "Dr.Who", "3.5", "NASA"),
    ],
)
def test_names_that_are_no_identifiers_are_read_as_they_are(name):
    assert spelled_out([name, "other"])[0] == name


def test_a_description_takes_the_place_of_the_name_and_a_sentence_that_of_the_template():
    texts = (("billing", BILLING), ("bug", LabelText(phrasings=("Something is broken.",))))
    wording = wording_of(ZeroShotRequest(("billing", "bug", "book_flight", "Inc."), texts=texts), "It is {}.")
    assert wording.sentences == (
        *("It is questions about invoices.", "It is money matters."),
        *("It is bug.", "Something is broken.", "It is book flight.", "It is Inc.."),
    )
    assert wording.counts == (2, 2, 1, 1)
    assert wording.texts[0] == ("billing", "questions about invoices", "money matters", "I was charged twice.")
    assert wording.texts[2:] == ((), ())
    kept = wording_of(ZeroShotRequest(("book_flight",), keep_identifiers=True), "It is {}.")
    assert kept.sentences == ("It is book_flight.",)
