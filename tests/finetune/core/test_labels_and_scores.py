"""Label order, NLI roles, and logits to scores: which all interfaces share."""

import numpy as np
import pytest

from finetune.core.errors import DataError
from finetune.core.labels import LabelSpace, NliRoles, nli_roles
from finetune.core.scores import activate, decide, log_softmax, sigmoid, softmax

pytestmark = pytest.mark.fast


def test_two_names_make_a_binary_space_with_two_outputs() -> None:
    space = LabelSpace.fit(["b", "a", "b"], "multiclass")
    assert (space.task, space.names) == ("binary", ("a", "b"))
    assert space.encode(["b", "a"]).tolist() == [1, 0]


def test_number_names_sort_by_value() -> None:
    assert LabelSpace.fit(["10", "2", "1"], "multiclass").names == ("1", "2", "10")


def test_multi_label_targets_are_rows_of_zeros_and_ones() -> None:
    space = LabelSpace.fit([["x"], ["y", "x"], []], "multi_label")
    assert space.encode([["y"], [], ["x", "y"]]).tolist() == [[0, 1], [0, 0], [1, 1]]


def test_one_label_only_is_refused_with_its_name() -> None:
    with pytest.raises(DataError, match="only 'spam'"):
        LabelSpace.fit(["spam", "spam"], "multiclass")


def test_an_unknown_label_is_refused_with_its_row() -> None:
    with pytest.raises(DataError, match=r"row 2: label 'c' is not one of the model's labels"):
        LabelSpace("binary", ("a", "b")).encode(["a", "c"])


def test_the_prior_predicts_the_distribution_of_the_targets() -> None:
    single = LabelSpace("multiclass", ("a", "b", "c"))
    proportions = softmax(single.prior(single.encode(["a"] * 30 + ["b"] * 10)))
    assert proportions == pytest.approx([30.5 / 41.5, 10.5 / 41.5, 0.5 / 41.5])
    several = LabelSpace("multi_label", ("x", "y"))
    assert sigmoid(several.prior(several.encode([["x"], [], [], []]))) == pytest.approx([1.5 / 5, 0.5 / 5])
    assert LabelSpace("regression", ("score",)).prior(np.array([1.0, 4.0])).tolist() == [2.5]


@pytest.mark.parametrize(
    ("names", "roles"),
    [
        (("contradiction", "entailment", "neutral"), NliRoles(1, 0)),
        (("ENTAILMENT", "NEUTRAL", "CONTRADICTION"), NliRoles(0, 2)),
        (("not_entailment", "entailment"), NliRoles(1, 0)),
        (("entailment", "not_entailment"), NliRoles(0, 1)),
        (("negative", "positive"), None),
        (("entailment", "neutral"), None),
    ],
)
def test_nli_roles_are_found_by_name_never_by_position(names: tuple[str, ...], roles: NliRoles | None) -> None:
    assert nli_roles(names) == roles


def test_config_json_round_trips_names_and_task() -> None:
    for task, names in (("binary", ("n", "y")), ("multi_label", ("a", "b", "c")), ("regression", ("score",))):
        space = LabelSpace(task, names)  # type: ignore[arg-type]
        config = {
            "id2label": {str(key): name for key, name in space.id2label.items()},
            "problem_type": space.problem_type,
        }
        assert LabelSpace.from_config(config) == space


def test_softmax_is_finite_and_right_at_extreme_logits() -> None:
    assert softmax([[1e4, -1e4, 0.0]]).tolist() == [[1.0, 0.0, 0.0]]
    assert np.allclose(softmax([[0.0, np.log(3.0)]]), [[0.25, 0.75]])
    assert log_softmax([[0.0, -1e4]])[0, 1] == pytest.approx(-1e4)


def test_sigmoid_does_not_overflow() -> None:
    with np.errstate(all="raise", under="ignore"):
        assert sigmoid([-1e4, 0.0, 1e4]).tolist() == [0.0, 0.5, 1.0]


def test_temperature_divides_logits() -> None:
    assert np.allclose(activate([[0.0, 2.0]], "softmax", temperature=2.0), softmax([[0.0, 1.0]]))


def test_decisions_follow_the_task() -> None:
    scores = np.array([[0.4, 0.6], [0.9, 0.7]])
    assert decide(scores, "binary").tolist() == [1, 0]
    assert decide(scores, "multi_label", [0.5, 0.65]).tolist() == [[False, False], [True, True]]
    assert decide(scores[:, :1], "regression").tolist() == [0.4, 0.9]
