"""Answers equal a plain loop, labels are kept, and a planted length effect is found by length."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
import torch

from mosaic.config.profiles import ModelSpec
from mosaic.config.workspace import Workspace
from mosaic.data.questions import Questions, prompt
from mosaic.errors import ConfigError
from mosaic.evidence.bundles import bundle_grids
from mosaic.evidence.claims import Verdict, judge_claims, load_claims
from mosaic.evidence.comparisons import behaviour_gaps, published_both_ways
from mosaic.evidence.noise import noise_spread, rerun_probes
from mosaic.evidence.published import best_on_test, published_scores
from mosaic.experiments.behaviour import behaviour_cells, best_by_cv, correctness, score_behaviour
from mosaic.experiments.oversight import answer_baselines, margin_and_mass
from mosaic.figures.behaviour import PUBLISHED_SIZES, fig_behaviour, fig_oversight
from mosaic.models.ask import SCORINGS, Answerer, generate_answers, includes, load_answerer
from mosaic.models.options import score_options
from mosaic.models.resolve import resolve
from mosaic.scores.choose import select_by_cv
from mosaic.scores.table import make_scores, validate_scores
from mosaic.sweep.cells import Cell
from mosaic.sweep.compare import surely_above
from mosaic.sweep.results import ScoredCell, to_scores

PROMPTS = ("Where is it?", "a", "Context: a long one with words. Question: who? Answer:", "Why so?")
OPTIONS = (("here", "there now"), ("x", "yes", "no"), ("ab", "abc", "much longer"), ("1", "22"))
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}U {{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %} M {% endif %}"
)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    """A random Gemma 2 with a chat template, whose attention window is shorter than its prompts."""
    root = tmp_path_factory.mktemp("models")
    spec = tiny.model_spec(root)
    tiny.write_model(Path(spec.source), "gemma2", sliding_window=12)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(spec.source)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(spec.source)
    return spec


def load(spec: ModelSpec) -> Answerer:
    return load_answerer(resolve(spec, tiny.profile(spec, dtype="float32")))


def plain_loop(model: Answerer, start: str, option: str, name: str) -> float:
    """One prompt, one option, one forward pass, no padding and no cache."""
    tokenizer = model.tokenizer
    if model.spec.chat and name != "published":
        turn = [{"role": "user", "content": start}]
        start = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        before = tokenizer(start.removesuffix(" "), add_special_tokens=False)["input_ids"]
        after = tokenizer(" " + option, add_special_tokens=False)["input_ids"]
    elif name == "published":
        before = tokenizer(start, add_special_tokens=False)["input_ids"]
        after = tokenizer(option, add_special_tokens=False)["input_ids"]
    else:
        before = tokenizer(start)["input_ids"]
        after = tokenizer(" " + option, add_special_tokens=False)["input_ids"]
    ids = torch.tensor([before + after])
    with torch.no_grad():
        logp = model.model(ids).logits[0].log_softmax(-1)
    each = [float(logp[len(before) - 1 + i, token]) for i, token in enumerate(after)]
    return sum(each) / len(each) if name == "normalised" else sum(each)


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("name", sorted(SCORINGS))
@pytest.mark.parametrize("budget", [16, 4096])
def test_options_score_as_in_a_plain_loop(
    spec: ModelSpec, name: str, chat: bool, budget: int
) -> None:
    model = load(replace(spec, chat=chat))
    found = score_options(model, PROMPTS, OPTIONS, SCORINGS[name], budget)
    for start, allowed, values in zip(PROMPTS, OPTIONS, found, strict=True):
        expected = [plain_loop(model, start, option, name) for option in allowed]
        np.testing.assert_allclose(values, expected, atol=1e-4, rtol=0)


def test_the_variants_differ(spec: ModelSpec) -> None:
    model = load(spec)
    plain, normalised, authors = (
        np.concatenate(score_options(model, PROMPTS, OPTIONS, SCORINGS[name]))
        for name in ("plain", "normalised", "published")
    )
    assert np.abs(plain - authors).min() > 1e-3  # BOS and the space change every score
    assert (normalised >= plain).all()


def test_a_space_that_ends_the_template_belongs_to_the_answer(spec: ModelSpec) -> None:
    model = load(replace(spec, chat=True))
    scoring = SCORINGS["plain"]
    whole = model.tokenizer("<bos>U Who? M here", add_special_tokens=False)["input_ids"]
    assert model.prompt_ids("Who?", scoring) + model.option_ids("here", scoring) == whole
    model.tokenizer.chat_template = TEMPLATE.replace(" M ", " M\n")
    assert model.option_ids("here", scoring) == model.tokenizer("here")["input_ids"][1:]


def test_no_bos_where_the_tokenizer_has_none(tmp_path: Path) -> None:
    spec = ModelSpec("gpt2", str(tiny.write_model(tmp_path / "gpt2", "gpt2")), {"early": 0})
    model = load(spec)
    model.tokenizer.bos_token = None
    assert model.prompt_ids("ab", SCORINGS["plain"]) == model.tokenizer("ab")["input_ids"]


def test_generation_is_greedy_and_repeatable(spec: ModelSpec) -> None:
    model = load(spec)
    # Settings that a model folder may bring along must not make answers random.
    model.model.generation_config.do_sample = True
    model.model.generation_config.temperature = 5.0
    first = generate_answers(model, PROMPTS, max_new_tokens=6)
    assert first == generate_answers(model, PROMPTS, max_new_tokens=6, token_budget=16)
    for start, answer in zip(PROMPTS, first, strict=True):
        ids = model.tokenizer(start)["input_ids"]
        for _ in range(6):
            with torch.no_grad():
                ids.append(int(model.model(torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == model.tokenizer.eos_token_id:
                break
        new = ids[len(model.tokenizer(start)["input_ids"]) :]
        assert answer.text == model.tokenizer.decode(new, skip_special_tokens=True).strip()
        assert answer.finished == (new[-1] == model.tokenizer.eos_token_id)


def test_an_answer_ends_where_its_chat_turn_ends(spec: ModelSpec) -> None:
    model = load(replace(spec, chat=True))
    scoring = SCORINGS["plain"]
    own = model.model.generation_config.eos_token_id
    assert model.end_ids(scoring) == [own]  # the template closes nothing
    model.tokenizer.chat_template = TEMPLATE.replace("{% endfor %}", "<unk>\n{% endfor %}")
    assert model.end_ids(scoring)[-1] == model.tokenizer.unk_token_id
    assert model.end_ids(SCORINGS["published"]) == [own]


def test_inclusion_ignores_case_and_takes_any_answer() -> None:
    assert includes("It is PARIS, of course.", ("rome", "Paris"))
    assert not includes("It is Lyon.", ("rome", "Paris"))


def test_prompt_wording() -> None:
    assert prompt("Is it?", "A text.", ("no", "yes")) == (
        "Context: A text.\nQuestion: Is it?\nOptions:\n1. no\n2. yes\nAnswer:"
    )
    assert prompt("Who?") == "Question: Who?\nAnswer:"


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        (("",), (("a",),), "A prompt is empty"),
        (("a",), (("",),), "has no tokens"),
        (("word " * 60,), (("a",),), "128 positions"),
    ],
)
def test_unanswerable_questions_are_refused(
    spec: ModelSpec, prompts: tuple[str], options: tuple[tuple[str]], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        score_options(load(spec), prompts, options, SCORINGS["published"])


def test_a_chat_model_without_template_is_refused(tmp_path: Path) -> None:
    source = str(tiny.write_model(tmp_path / "m", "gemma2"))
    model = load(ModelSpec("m", source, {"early": 0}, chat=True))
    with pytest.raises(ConfigError, match="no chat template"):
        model.prompt_ids("a", SCORINGS["plain"])


def ask_about(texts: list[str], groups: list[str] | None = None) -> Questions:
    data = tiny.task_data(texts)
    if groups is not None:
        data = replace(data, groups=np.asarray(groups))
    return Questions(data, tuple(("yes", "no") for _ in texts), tuple(("yes",) for _ in texts))


def test_labels_are_asked_once_and_read_afterwards_and_damaged_ones_asked_anew(
    spec: ModelSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    workspace = Workspace(tiny.profile(spec), tmp_path, "tiny")
    questions = ask_about([f"Is {i} odd?" for i in range(20)])
    first = correctness(spec, questions, workspace)
    assert first.task.label_model == spec.name
    assert first.label_names == ("wrong", "right")
    with monkeypatch.context() as patch:
        again = "the model ran again"
        patch.setattr("mosaic.experiments.behaviour._ask", lambda *_: pytest.fail(again))
        assert correctness(spec, questions, workspace).fingerprint == first.fingerprint
    (path,) = (tmp_path / "cache" / "labels").glob("*.json")
    whole = path.read_text()
    path.write_text(whole[:-20])
    assert correctness(spec, questions, workspace).fingerprint == first.fingerprint
    assert f"{path.name} is damaged" in caplog.text
    assert path.read_text() == whole
    assert path.with_name(f"{path.name}.corrupt-1").read_text() == whole[:-20]


def test_label_is_whether_the_best_option_is_right(spec: ModelSpec, tmp_path: Path) -> None:
    workspace = Workspace(tiny.profile(spec), tmp_path, "tiny")
    questions = ask_about([f"Is {i} odd?" for i in range(12)])
    data = correctness(spec, questions, workspace)
    model = load(spec)
    for text, label in zip(questions.data.inputs, data.labels, strict=True):
        yes, no = (plain_loop(model, text, option, "plain") for option in ("yes", "no"))
        assert label == int(yes > no)


def test_margin_and_mass_are_of_the_option_probabilities() -> None:
    margin, mass = margin_and_mass(np.log([0.1, 0.5, 0.2]))
    assert margin == pytest.approx(np.log(2.5))
    assert mass == pytest.approx(np.log(0.8))
    assert np.isnan(margin_and_mass(np.log([0.4]))).all()


def test_answers_alone_say_who_will_be_right(spec: ModelSpec, tmp_path: Path) -> None:
    """A margin that is larger where the answer is right has AUC 1, reversed 0; a larger model's
    answers are not read for a smaller one."""
    workspace = Workspace(tiny.profile(spec), tmp_path, "tiny")
    data = correctness(spec, ask_about([f"Is {i} odd?" for i in range(40)]), workspace)
    assert np.isfinite(data.annotations["margin"]).all()
    assert (data.annotations["mass"] <= 1e-6).all()
    labels = np.arange(40) % 2
    notes = {"margin": labels + 0.5, "mass": 1.0 - labels}
    large = replace(data, labels=labels, annotations=notes)
    small = replace(large, labels=1 - labels, task=replace(data.task, label_model="small"))
    probe = ScoredCell(
        Cell("large", "length"), {}, data.ids, labels, labels, np.zeros((40, 2)), None
    )
    sizes = {"small": 1, spec.name: 2}
    both = {"large": large, "small": small}
    found = answer_baselines(both, [probe], sizes).set_index(["model", "baseline"])["auc"]
    assert found[spec.name].tolist() == [1.0, 0.0]
    assert found["small"].tolist() == [1.0, 0.0, 0.0]
    of_small = replace(probe, cell=Cell("small", "length"))
    assert set(answer_baselines(both, [of_small], sizes)["model"]) == {"small"}


def test_an_answer_that_is_no_option_is_refused() -> None:
    with pytest.raises(ConfigError, match="not among its options"):
        Questions(tiny.task_data(["a"]), (("yes", "no"),), (("maybe",),))


def test_a_sample_of_questions_keeps_groups_whole() -> None:
    questions = ask_about([f"q{i}" for i in range(30)], [f"g{i // 3}" for i in range(30)])
    some = questions.first(10)
    assert len(some) == 12
    assert all((some.data.groups == group).sum() == 3 for group in set(some.data.groups))
    assert len(some.options or ()) == len(some.answers) == 12


def test_label_sets_of_one_text_share_one_extraction(spec: ModelSpec, tmp_path: Path) -> None:
    workspace = Workspace(tiny.profile(spec), tmp_path, "tiny")
    data = tiny.task_data([f"text {i}" for i in range(40)])
    sets = {}
    for name in ("x", "y"):
        labels = np.random.default_rng(len(sets)).permutation(np.arange(40) % 2)
        one = replace(data, task=replace(data.task, label_model=name), labels=labels)
        sets[one.task.key] = one
    cells = [Cell(key, "hidden", spec.name, 0, pooling="mean") for key in sets]
    table = to_scores(score_behaviour(cells, sets, workspace, n_jobs=1))
    assert list(table["label_model"]) == ["x", "y"]
    assert len(list((tmp_path / "cache" / "features").glob("*/manifest.json"))) == 1


def test_length_wins_where_only_length_decides(spec: ModelSpec, tmp_path: Path) -> None:
    """Labels planted on prompt length: no feature may beat the length baseline."""
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnop "))
    texts = ["".join(rng.choice(letters, size=rng.integers(4, 60))) for _ in range(300)]
    data = tiny.task_data(texts)
    labels = (np.array([len(text) for text in texts]) > 30).astype(np.int64)
    task = replace(data.task, label_model="planted")
    sets = {task.key: replace(data, task=task, labels=labels)}
    profile = tiny.profile(spec, token_budget=4096, shard_docs=512)
    workspace = Workspace(profile, tmp_path, "tiny")
    cells = behaviour_cells(profile, sets)
    results = score_behaviour(cells, sets, workspace, n_jobs=1)
    table = to_scores(results)
    length = table.loc[table["feature"] == "length", "macro_f1"].item()
    others = table[~table["feature"].isin(["length", "base_rate"])]
    assert length > 0.97
    assert length >= others["macro_f1"].max()
    assert set(others["feature"]) == {"sae", "hidden", "tfidf"}
    rated = table[table["feature"] == "base_rate"]
    keys = ["task", "label_model", "split"]
    assert set(map(tuple, table[keys].to_numpy())) == set(map(tuple, rated[keys].to_numpy()))
    assert validate_scores(table) is not None


def test_best_by_cv_never_looks_at_the_test_score() -> None:
    def result(layer: int, cv: float, test: float) -> ScoredCell:
        none = np.empty(0)
        row = {
            "cv_accuracy": cv,
            "macro_f1": test,
            "model": "m",
            "feature": "sae",
            "pooling": "sum",
        }
        spec = Cell("t", "sae", "m", layer)
        return ScoredCell(spec, row, none, none, none, none, None)

    best = best_by_cv([result(0, 0.7, 0.9), result(1, 0.8, 0.1)], "model")
    assert [b.cell.layer for b in best] == [1]


def test_means_over_layers_say_less_against_sae_features_than_the_best_test_scores() -> None:
    authors = published_scores()
    best = best_on_test(authors[authors["label_model"].notna()])
    found = {f.claim.key: f for f in judge_claims(load_claims(), authors)}
    pairs = found["behaviour-above-hidden"].pairs
    both = published_both_ways(behaviour_gaps(best), pairs, noise_spread(rerun_probes(authors)))
    assert len(both) == len(behaviour_gaps(best)) == 11
    of = both.set_index(["task", "label_model"])
    assert of.loc[("pubmedqa", "gemma-2-9b"), "best_on_test"] < -0.16
    recipe = authors[
        (authors["task"] == "boolq")
        & (authors["label_model"] == "gemma-2-9b")
        & (authors["probe"] == "linear")
    ]
    sums = (recipe["pooling"] == "sum") & (recipe["threshold"] == 1) & (recipe["width"] == "16k")
    by_layer = recipe[sums.fillna(False)].groupby("layer")["macro_f1"].mean()
    hidden = recipe[recipe["feature"] == "hidden"].groupby("layer")["macro_f1"].mean()
    said = of.loc[("boolq", "gemma-2-9b")]
    assert said["mean"] == pytest.approx(float((by_layer - hidden).mean()))
    assert abs(said["mean"]) < said["needed"] > abs(said["best_on_test"])
    # The chapter's prose rests on these words.
    assert found["behaviour-above-hidden"].verdict == Verdict.INCONCLUSIVE
    small = found["small-predicts-large"]
    assert (small.verdict, small.n_above, small.beyond_noise[0]) == (Verdict.SUPPORTED, 4, 3)


def test_label_sets_of_a_bundle_stand_beside_the_published(tmp_path: Path) -> None:
    tiny.mixed_bundle(tmp_path / "runs")
    [found] = bundle_grids(tmp_path / "runs", kind="behaviour")
    authors = published_scores()
    best = best_on_test(authors[authors["label_model"].notna()])
    by = ["task", "language", "label_model"]
    theirs = select_by_cv(found, by)
    values = pd.read_csv(fig_behaviour([best, theirs], PUBLISHED_SIZES, tmp_path).csv)
    drawn = values[values["source"] == "bundle"]
    assert set(drawn["label_model"]) == {"large"}
    scores_of = drawn.set_index("series")["macro_f1"]
    assert scores_of["SAE latents"] == 0.6, "chosen by inner cross-validation, not by test score"
    assert set(scores_of.index) == {
        "SAE latents", "hidden state, last token", "TF-IDF", "base rate"
    }  # fmt: skip
    pairs = select_by_cv(found, [*by, "model"], hidden_apart=False)
    picture = fig_oversight([best_on_test(authors, "model"), pairs], PUBLISHED_SIZES, tmp_path)
    values = pd.read_csv(picture.csv)
    assert "small" in set(values.loc[values["source"] == "bundle", "model"])
    assert picture.caption.finding.startswith("In the published scores, a smaller model's SAE")
    alone = fig_oversight([pairs], PUBLISHED_SIZES, tmp_path).caption
    assert "no smaller model" in alone.finding, "the sizes of a bundle's models are not known"
    assert bundle_grids(tmp_path / "nowhere", kind="behaviour") == []


def test_hidden_states_are_one_choice_or_two_baselines() -> None:
    rows = [
        dict(source="run", protocol="nested", feature="hidden", pooling=pooling, task="t",
             kind="text", toy=False, probe="linear", macro_f1=f1, cv_accuracy=cv)
        for pooling, f1, cv in (("last", 0.9, 0.5), ("mean", 0.4, 0.6))
    ]  # fmt: skip
    table = make_scores(rows)
    assert len(select_by_cv(table)) == 2
    assert list(select_by_cv(table, hidden_apart=False)["macro_f1"]) == [0.4]


def test_what_is_above_after_correction_is_above_every_such_baseline() -> None:
    table = pd.DataFrame(
        [
            ("a", "hidden last", 0.1, 0.01),
            ("a", "hidden mean", 0.1, 0.2),
            ("b", "hidden last", 0.1, 0.01),
            ("b", "hidden mean", 0.2, 0.04),
            ("c", "hidden last", -0.1, 0.01),
            ("c", "length", 0.1, 0.01),
        ],
        columns=["task", "second", "difference", "p_holm"],
    )
    assert surely_above(table, "hidden") == 1
    assert surely_above(table, "length") == 1


def test_label_file_says_what_was_asked(spec: ModelSpec, tmp_path: Path) -> None:
    workspace = Workspace(tiny.profile(spec), tmp_path, "tiny")
    correctness(spec, ask_about(["Is it?", "Or not?"]), workspace, scoring="published")
    (path,) = (tmp_path / "cache" / "labels").glob("*.json")
    said = json.loads(path.read_text())
    assert said["identity"]["scoring"] == {
        "bos": False, "separator": "", "chat": False, "normalise": False
    }  # fmt: skip
    assert len(said["answers"]) == 2
    with pytest.raises(ConfigError, match="Unknown scoring"):
        correctness(spec, ask_about(["a"]), workspace, scoring="other")


@pytest.mark.parametrize(
    "damage", [lambda text: text[:40], lambda text: text.replace("ids", "idx")]
)
def test_damaged_labels_are_set_aside_and_asked_anew(
    spec: ModelSpec, tmp_path: Path, damage: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    workspace = Workspace(tiny.profile(spec), tmp_path, "tiny")
    asked = ask_about(["Is it?", "Or not?"])
    expected = correctness(spec, asked, workspace).labels
    (path,) = (tmp_path / "cache" / "labels").glob("*.json")
    whole = path.read_text()
    path.write_text(damage(whole))
    again = correctness(spec, asked, workspace).labels
    assert again.tolist() == expected.tolist()
    assert path.read_text() == whole
    assert f"{path} is damaged" in caplog.text
    assert f"kept as {path.name}.corrupt-1 and computed again" in caplog.text
