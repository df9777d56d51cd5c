"""Zero-shot profiles: what they hold, what they do to scores, and where they are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from checkpoints import save_classifier
from click.testing import CliRunner

import rehead
from finetune.core.tables.files import read_table, write_table
from service.cli import rehead as command_line
from service.errors import BadRequest
from service.inference.profile import ZeroShotProfile, profiled
from service.profiling import biases_of, estimated_priors, make_profile

pytestmark = pytest.mark.fast
LABELS = ("sports", "business", "science")
WORDS = "sports business science football match market goal player bank money space planet it was not the"


def texts(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS.split(), rng.integers(2, 8))) for _ in range(count)]


@pytest.fixture(scope="module")
def classifier(tiny_nli: Path) -> rehead.ZeroShotClassifier:
    return rehead.ZeroShotClassifier(tiny_nli)


@pytest.fixture(scope="module")
def profile(classifier: rehead.ZeroShotClassifier) -> ZeroShotProfile:
    return make_profile(classifier, texts(200), LABELS)


def with_profile(classifier: rehead.ZeroShotClassifier, profile: ZeroShotProfile) -> rehead.ZeroShotClassifier:
    return rehead.ZeroShotClassifier(engine=classifier.engine, profile=profile)


def test_biases_give_every_label_its_prior_as_mean_score() -> None:
    rng = np.random.default_rng(0)
    scores = rng.dirichlet([0.5, 2, 5], 500)
    for priors in ([1 / 3, 1 / 3, 1 / 3], [0.7, 0.2, 0.1]):
        means = profiled(scores, biases_of(scores, np.array(priors)), 1.0).mean(axis=0)
        np.testing.assert_allclose(means, priors, atol=1e-4)


def test_estimated_priors_lean_towards_the_frequent_label() -> None:
    rng = np.random.default_rng(0)
    held = rng.choice(3, 2000, p=[0.7, 0.2, 0.1])
    scores = np.full((2000, 3), 0.15)
    scores[np.arange(2000), held] = 0.7
    found = estimated_priors(scores)
    assert found[0] > found[1] > found[2] and 0.4 < found[0] < 0.7 and found.sum() == pytest.approx(1)


def test_scores_are_log_scores_with_biases_over_the_temperature(
    classifier: rehead.ZeroShotClassifier, profile: ZeroShotProfile
) -> None:
    rows = texts(5, seed=1)
    plain = classifier.predict_proba(rows, list(LABELS))
    logits = (np.log(plain) + np.array(profile.biases)) / profile.temperature
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)

    np.testing.assert_allclose(with_profile(classifier, profile).predict_proba(rows), expected, atol=1e-6)
    assert np.abs(plain - expected).max() > 0.01


def test_a_text_has_the_same_scores_alone_and_beside_any_others(
    classifier: rehead.ZeroShotClassifier, profile: ZeroShotProfile
) -> None:
    own = with_profile(classifier, profile)
    rows = texts(20, seed=2)
    alone = np.concatenate([own.predict_proba([row]) for row in rows])
    np.testing.assert_allclose(own.predict_proba(rows), alone, atol=1e-6)
    np.testing.assert_allclose(own.predict_proba(rows[::-1])[::-1], alone, atol=1e-6)


def test_labels_may_come_in_another_order(classifier: rehead.ZeroShotClassifier, profile: ZeroShotProfile) -> None:
    own, rows = with_profile(classifier, profile), texts(3, seed=3)
    np.testing.assert_allclose(own.predict_proba(rows, list(LABELS[::-1])), own.predict_proba(rows)[:, ::-1], atol=1e-6)
    assert own(rows[0])["labels"] == own(rows[0], list(LABELS[::-1]))["labels"]


def test_labeled_texts_fit_biases_and_temperature(classifier: rehead.ZeroShotClassifier) -> None:
    rows = texts(300, seed=4)
    rng, plain = np.random.default_rng(0), classifier.predict_proba(rows, list(LABELS))
    truth = [LABELS[rng.choice(3, p=row)] for row in profiled(plain, np.array([1.0, 0.0, -1.0]), 1.5)]
    table = [{"text": row, "label": name} for row, name in zip(rows, truth, strict=True)]

    fit = make_profile(classifier, table, LABELS, label="label")
    targets = np.array([LABELS.index(name) for name in truth])

    def loss(scores: np.ndarray) -> float:
        return -float(np.log(scores[np.arange(300), targets]).mean())

    assert fit.labeled == 300
    assert loss(with_profile(classifier, fit).predict_proba(rows)) < loss(plain)
    unlabeled = make_profile(classifier, table, LABELS)
    assert loss(with_profile(classifier, fit).predict_proba(rows)) < loss(
        with_profile(classifier, unlabeled).predict_proba(rows)
    )


def test_of_several_templates_the_best_on_labeled_texts_is_chosen(classifier: rehead.ZeroShotClassifier) -> None:
    rows = texts(60, seed=5)
    template = "it was not {}."
    plain = classifier.predict_proba(rows, list(LABELS))
    truth = profiled(plain, biases_of(plain, np.full(3, 1 / 3)), 1.0).argmax(axis=1)  # by the model's own template
    table = [{"text": row, "label": LABELS[place]} for row, place in zip(rows, truth, strict=True)]
    own = "This text is about {}."

    chosen = make_profile(classifier, table, LABELS, label="label", templates=[template, own])
    assert chosen.hypothesis_template == own
    with pytest.raises(BadRequest, match="the best of several templates"):
        make_profile(classifier, rows, LABELS, templates=[template, own])


def test_the_command_line_makes_and_uses_a_profile(tiny_nli: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(texts(80)), encoding="utf-8")
    out, using = ["-o", str(tmp_path / "p.json")], ["--profile", str(tmp_path / "p.json")]
    made = CliRunner().invoke(
        command_line,
        ["profile", str(tmp_path / "texts.txt"), "--labels", ",".join(LABELS), "--model", str(tiny_nli), *out],
        catch_exceptions=False,
    )
    assert "80 texts, 0 of them labeled" in made.stdout and "sports" in made.stdout

    rows = texts(6, seed=6)
    expected = rehead.ZeroShotClassifier(tiny_nli, profile=tmp_path / "p.json").predict_proba(rows)
    arguments = ["zero-shot", *rows, "--model", str(tiny_nli), *using]
    shown = CliRunner().invoke(command_line, [*arguments, "--json"], catch_exceptions=False)
    for row, record in zip(expected, json.loads(shown.stdout), strict=True):
        scores = {item["label"]: item["score"] for item in record["predictions"]}
        assert [scores[label] for label in LABELS] == pytest.approx(row, abs=1e-6)

    write_table(tmp_path / "in.jsonl", [{"text": row} for row in rows])
    CliRunner().invoke(
        command_line,
        ["zero-shot", str(tmp_path / "in.jsonl"), "-o", str(tmp_path / "out.jsonl"), "--model", str(tiny_nli), *using],
        catch_exceptions=False,
    )
    assert read_table(tmp_path / "out.jsonl").column("prediction") == [LABELS[row.argmax()] for row in expected]


def test_a_profile_survives_its_file(profile: ZeroShotProfile, tmp_path: Path) -> None:
    profile.write(tmp_path / "p.json")
    assert ZeroShotProfile.read(tmp_path / "p.json") == profile


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"candidate_labels": ["sports", "art"]}, "the profile is for the labels sports, business, science"),
        ({"multi_label": True}, "leave out multi_label"),
        ({"hypothesis_template": "It is {}."}, "leave hypothesis_template out"),
    ],
)
def test_other_labels_and_options_are_refused(
    classifier: rehead.ZeroShotClassifier, profile: ZeroShotProfile, options: dict[str, object], message: str
) -> None:
    with pytest.raises(BadRequest, match=message):
        with_profile(classifier, profile)("good film", **options)


def test_another_model_is_refused(profile: ZeroShotProfile, tmp_path: Path) -> None:
    other = save_classifier(tmp_path / "other", ["entailment", "contradiction", "neutral"], seed=2)
    with pytest.raises(BadRequest, match="made with the model nli, whose files differ from those of other"):
        rehead.ZeroShotClassifier(other, profile=profile)("good film")


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "it is not JSON"), ('{"format": 9}', "not a profile of format 1"), ('{"format": 1}', "missing 8 required")],
)
def test_a_file_that_is_no_profile_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "p.json").write_text(content, encoding="utf-8")
    with pytest.raises(BadRequest, match=message):
        ZeroShotProfile.read(tmp_path / "p.json")


def test_faults_of_the_texts_and_priors_are_refused(classifier: rehead.ZeroShotClassifier) -> None:
    with pytest.raises(BadRequest, match="a profile takes 50 texts, or 20 with labels, and there are 49"):
        make_profile(classifier, texts(49), LABELS)
    with pytest.raises(BadRequest, match="row 2: the label 'art' is none of"):
        make_profile(
            classifier, [{"text": "a", "label": "sports"}, {"text": "b", "label": "art"}], LABELS, label="label"
        )
    with pytest.raises(BadRequest, match="give one for each"):
        make_profile(classifier, texts(60), LABELS, priors={"sports": 1})
    with pytest.raises(BadRequest, match="a prior must be above 0"):
        make_profile(classifier, texts(60), LABELS, priors={"sports": 1, "business": 0, "science": 1})
