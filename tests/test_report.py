"""The page and its words, from a small run and from results made up to have a known verdict."""

import dataclasses
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from jloss._tables import load
from jloss.card import CARDS
from jloss.compare import LOSSES, Comparison, Prepared, Result, Rows, compare
from jloss.landscape import Plane
from jloss.report import claims, page, summary, table_note, table_rows, verdict, words, write

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def comparisons():
    """One that was run; one with losses in two groups of shapes, and names made of markup."""
    right, wrong = np.ones(30), np.arange(30.0) % 2
    classes = {"softmax_cross_entropy_with_integer_labels": right, "squared_error": wrong}
    values, table = ["huber_loss", "squared_error"], load("diabetes")
    few = dataclasses.replace(table, features=table.features[:53], targets=table.targets[:53])
    one = made_up("multiclass", classes)
    hostile = ("<b>one</b>", "&two", '"three')
    renamed = dataclasses.replace(one.table, name="<script>x</script>", classes=hostile)
    return {
        "multiclass": dataclasses.replace(one, table=renamed),
        "regression": compare(few, values, epochs=3, outliers=0.1),
    }


@pytest.fixture(scope="module", params=["multiclass", "regression"])
def comparison(request, comparisons):
    return comparisons[request.param]


@pytest.fixture(scope="module")
def html(comparison):
    return page(comparison)


class Outline(HTMLParser):
    """What a page holds, and whether every element that was opened is closed in order."""

    VOID = frozenset({"meta", "wbr", "br", "link", "img"})

    def __init__(self, text):
        super().__init__()
        self.open, self.wrong, self.tags, self.ids, self.refs, self.alts = [], [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        attrs = dict(attrs)
        if "id" in attrs:
            self.ids.append(attrs["id"])
        self.refs += [value for key, value in attrs.items() if key in ("href", "src")]
        self.refs += re.findall(r"url\(([^)]*)\)", " ".join(filter(None, attrs.values())))
        if attrs.get("role") == "img":
            self.alts.append(attrs.get("aria-label", ""))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def test_the_page_is_well_formed(html):
    outline = Outline(html)
    assert outline.wrong == [] and outline.open == []
    assert outline.tags.count("h1") == 1


def test_the_page_asks_nothing_of_the_network(html):
    assert not re.search(r"https?:|//[a-z]|@import|<script|<link|<img", html)
    outline = Outline(html)
    assert outline.refs and all(ref.startswith("#") for ref in outline.refs)


def test_every_reference_within_the_page_leads_to_one_place(html):
    outline = Outline(html)
    used = {ref[1:] for ref in outline.refs}
    assert used <= set(outline.ids)
    # Pictures share a page: what one defines must not be drawn by another.
    assert all(outline.ids.count(name) == 1 for name in used)


def test_every_loss_has_its_row_curves_shape_and_surface(comparison, html):
    outline = Outline(html)
    assert outline.tags.count("tr") == 1 + len(comparison.results)
    # The scores, then a loss and a metric, a surface each, and two pictures a group of shapes.
    groups = 2 if comparison.table.task == "multiclass" else 1
    assert len(outline.alts) == 1 + 3 * len(comparison.results) + 2 * groups
    assert outline.tags.count("svg") == len(outline.alts)
    assert all(len(alt) > 10 for alt in outline.alts)
    for result in comparison.results:
        assert html.count(result.loss.replace("_", "_<wbr>")) >= 4


def test_every_colour_of_a_picture_is_one_of_the_page_or_of_the_map(html):
    style, body = html.split("</style>", 1)
    used = set(re.findall(r"var\(--([\w-]+)\)", body))
    assert used <= set(re.findall(r"--([\w-]+):", style)) | {"line"}
    dark = style[style.index("prefers-color-scheme: dark") :]
    assert used - {"line"} <= set(re.findall(r"--([\w-]+):", dark))
    # No stand-in colour is left: it would be black on a dark page.
    assert not re.search(r"#0[1-6]0\d0\d\b", body)


def test_the_page_holds_the_numbers_of_the_table_and_the_verdict(comparison, html):
    plain = re.sub(r"<wbr>|</?code>", "", html).replace("&nbsp;", " ")
    for row in table_rows(comparison):
        assert all(f">{cell}<" in plain for cell in row)
    assert verdict(comparison).headline in plain


def test_a_name_from_the_data_cannot_become_markup(html):
    assert "<script" not in html and "<b>" not in html


@pytest.fixture
def short_page(monkeypatch):
    monkeypatch.setattr(sys.modules["jloss.report.page"], "page", lambda _: "<p>10 ± 1 %</p>")


def test_writing_leaves_one_whole_file(comparison, short_page, tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    write(comparison, path)
    assert path.read_text(encoding="utf-8") == "<p>10 ± 1 %</p>"
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_writing_that_fails_leaves_the_old_file_and_nothing_else(
    comparison, short_page, tmp_path, monkeypatch
):
    path = tmp_path / "report.html"
    path.write_text("old")

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(OSError, match="disk full"):
        write(comparison, path)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_the_table_has_what_the_history_has(comparison):
    head, *rows = table_rows(comparison)
    assert {len(row) for row in rows} == {len(head)}
    for row, result in zip(rows, comparison.results, strict=True):
        history = result.history
        best = int(np.argmin(history["validation_loss"]))
        assert row[0] == result.loss and row[5] == str(best + 1)
        assert float(row[2]) == pytest.approx(history["validation_loss"][best], rel=0.01)
        gap = history["validation_loss"] - history["train_loss"]
        assert float(row[3]) == pytest.approx(gap[best], rel=0.01, abs=1e-4)
        assert float(row[4]) == pytest.approx(gap[-1], rel=0.01, abs=1e-4)
        factor = 0.01 if comparison.table.classes else 1
        assert factor * float(row[7].rstrip(" %")) == pytest.approx(result.scores.mean(), rel=0.01)


# The verdict, on results that were made up.

AXIS = np.linspace(-1, 1, 5)
PATH = np.array([[0.8, 0.2], [0.4, -0.1], [0.0, 0.0], [-0.3, 0.1]])
BOWL = Plane(AXIS, AXIS, 1 + AXIS[:, None] ** 2 + AXIS**2, (0, 0), PATH, np.full(4, 0.1))


def made_up(task, scores, *, baseline=0.5, outliers=0.0, validation=(2.0, 1.0, 3.0)):
    """A comparison with these scores per loss on the test rows."""
    table = load({"regression": "diabetes", "binary": "breast_cancer", "multiclass": "iris"}[task])
    readings = {loss.__name__: reading for loss, reading in LOSSES[task].items()}
    history = {
        "train_loss": np.array([2.0, 1.0, 0.5]),
        "validation_loss": np.array(validation),
        "train_metric": np.array([0.2, 0.8, 0.9]),
        "validation_metric": np.array([0.2, 0.8, 0.7]),
    }
    results = tuple(
        Result(name, readings[name], {}, history, BOWL, 1.0, np.asarray(values, np.float32), 1.0)
        for name, values in scores.items()
    )
    rows = Rows(np.zeros((3, 1)), np.zeros(3))
    metric = "accuracy" if table.classes else "mean absolute error"
    parts = Prepared(rows, rows, rows)
    return Comparison(table, parts, results, metric, baseline, outliers, 3, 0)


def test_the_paired_error_of_a_difference_is_that_of_scipy():
    from scipy.stats import ttest_rel

    rng = np.random.default_rng(0)
    one, two = rng.random(50), rng.random(50)
    comparison = made_up("regression", {"huber_loss": one, "squared_error": two})
    first, second = comparison.results
    difference = words.worse(comparison, first, second)
    expected = ttest_rel(one.astype(np.float32), two.astype(np.float32)).statistic
    assert difference.mean / difference.error == pytest.approx(expected, rel=1e-5)


def test_a_clear_winner_is_taken_even_if_it_is_the_loss_that_may_mislead():
    right = np.ones(100)
    wrong = np.r_[np.zeros(50), np.ones(50)]
    scores = {"softmax_cross_entropy_with_integer_labels": wrong, "squared_error": right}
    said = verdict(made_up("multiclass", scores))
    assert said.take == "squared_error"
    assert "clearly the best" in said.headline
    assert any("softmax_cross_entropy_with_integer_labels does worse" in r for r in said.reasons)


def test_within_noise_the_proper_score_is_taken_and_the_tie_is_said():
    ahead, behind = np.ones(100), np.r_[0.0, np.ones(99)]
    scores = {"hinge_loss": ahead, "sigmoid_binary_cross_entropy": behind, "squared_error": ahead}
    said = verdict(made_up("binary", scores))
    assert said.take == "sigmoid_binary_cross_entropy"
    assert "no difference to hinge_loss and squared_error" in said.headline
    assert "proper score" in said.reasons[0]
    assert any("squared_error could have misled" in reason for reason in said.reasons)


def test_the_loss_that_misleads_is_named_with_its_distance_and_the_baseline():
    right = np.r_[np.zeros(5), np.ones(95)]
    wrong = np.r_[np.zeros(70), np.ones(30)]
    names = ("softmax_cross_entropy_with_integer_labels", "squared_error")
    said = verdict(made_up("multiclass", dict(zip(names, (right, wrong), strict=True))))
    (reason,) = [r for r in said.reasons if "squared_error misleads" in r]
    assert "30.0 %, worse by 65.0" in reason
    assert "counts 4 times" in reason  # iris: three classes, a distance of two, squared
    assert "no better than always answering the commonest class (50.0 %)" in reason


def test_outliers_are_blamed_only_if_there_were_any():
    small, large = np.full(50, 1.0), np.linspace(2.0, 3.0, 50)
    scores = {"huber_loss": small, "squared_error": large}
    with_them = verdict(made_up("regression", scores, outliers=0.1, baseline=9.0))
    assert any("pulls at it 10 times as hard" in reason for reason in with_them.reasons)
    without = verdict(made_up("regression", scores, baseline=9.0))
    assert not any("pulls at it" in reason for reason in without.reasons)
    assert any("squared_error does worse" in reason for reason in without.reasons)


def test_scores_that_are_not_finite_lose():
    scores = {"huber_loss": np.full(50, np.nan), "absolute_error": np.linspace(1, 2, 50)}
    assert verdict(made_up("regression", scores)).take == "absolute_error"


@pytest.mark.parametrize(
    ("validation", "said"),
    [
        ((2.0, 1.0, 3.0), "Stop at epoch 2"),
        ((3.0, 2.0, 1.0), "still falling at the last epoch (3)"),
    ],
)
def test_when_to_stop_is_where_the_validation_loss_was_lowest(validation, said):
    scores = {"huber_loss": np.linspace(1, 2, 9), "squared_error": np.linspace(1, 2, 9)}
    reasons = verdict(made_up("regression", scores, validation=validation)).reasons
    assert said in reasons[-1]


def test_a_metric_that_was_best_at_another_epoch_is_pointed_out():
    scores = {"huber_loss": np.linspace(1, 2, 9), "squared_error": np.linspace(1, 2, 9)}
    one = made_up("binary", {"hinge_loss": np.ones(9), "squared_error": np.ones(9)})
    assert "not the same thing" not in words.curve_caption(one, one.results[0])
    two = made_up("regression", scores)
    assert "best in epoch 1, with 0.200" in words.curve_caption(two, two.results[0])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.00012345, "0.0001"),
        (1e-5, "1e-05"),
        (0.98765, "0.988"),
        (12.345, "12.3"),
        (123456.0, "123456"),
        (2.5e9, "2.5e+09"),
        (float("nan"), "not finite"),
        (-0.5, "-0.500"),
    ],
)
def test_numbers_have_three_digits(value, text):
    assert words.number(value) == text


def test_what_is_claimed_is_what_the_card_says():
    assert claims(CARDS["huber_loss"]).startswith("convex, Lipschitz, smooth")
    assert "smooth" not in claims(CARDS["absolute_error"])
    assert "Lipschitz" not in claims(CARDS["squared_error"])


@pytest.mark.parametrize("name", CARDS)
def test_a_summary_is_plain_words(name):
    assert summary(CARDS[name]) and not re.search(r"``|:math:|\\", summary(CARDS[name]))


def test_the_note_tells_what_may_not_be_compared(comparison):
    note = table_note(comparison)
    assert "cannot be compared between rows" in note
    assert ("outliers" in note) == bool(comparison.outliers)


def test_where_a_class_number_is_right_is_told_apart():
    one = made_up("binary", {"hinge_loss": np.ones(9), "squared_error": np.ones(9)})
    assert "under squared_error, to the right of 0.5" in words.shape_caption(one, "output")
    two = made_up("binary", {"hinge_loss": np.ones(9), "sigmoid_focal_loss": np.ones(9)})
    assert "0.5" not in words.shape_caption(two, "output")
