"""Take protections out one at a time, in a copy, and see that the drill of each then fails.

`python benchmarks/remove_protection.py` prints one line a protection, and ends with exit code 1 if
a drill passes without what it is a drill of. `--only WORD` tries those whose test has the word.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Protection:
    """A piece that stands once in a module, what replaces it, and the drill that must fail."""

    what: str
    module: str
    """Its path below `mosaic/`."""
    old: str
    new: str
    test: str
    """File and name: `test_shards::test_any_flipped_byte_is_noticed`."""


PROTECTIONS = (
    Protection(
        "a shard counts as there when its folder is",
        "storage/shards",
        "return [i for i in range(n_shards) if not self._is_valid(key, i)]",
        "return [] if (self.root / key).is_dir() else list(range(n_shards))",
        "test_extract::test_killed_at_random_points_it_ends_bit_identical",
    ),
    Protection(
        "files are written in place",
        "storage/files",
        'temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")',
        "temporary = path",
        "test_shards::test_a_write_that_fails_leaves_the_old_file",
    ),
    Protection(
        "a failed write leaves its temporary file",
        "storage/files",
        "temporary.unlink(missing_ok=True)",
        "pass",
        "test_drills::test_a_disk_that_fills_up_loses_nothing_that_was_stored",
    ),
    Protection(
        "a full disk is any other OSError",
        "storage/files",
        "if error.errno in (errno.ENOSPC, errno.EDQUOT):",
        "if False:",
        "test_shards::test_a_disk_that_refuses_is_one_sentence",
    ),
    Protection(
        "scores are written without naming a full disk",
        "storage/files",
        "with storage_errors(path):\n        path.parent",
        "if True:\n        path.parent",
        "test_drills::test_a_full_disk_while_scores_are_written_is_one_sentence",
    ),
    Protection(
        "a read-only folder is any other OSError",
        "storage/files",
        "if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):",
        "if False:",
        "test_drills::test_a_cache_that_cannot_be_written_is_still_read",
    ),
    Protection(
        "no checksum of a shard",
        "storage/shards",
        "if _content_hash(arrays, key, shard) != stated:",
        "if False:",
        "test_shards::test_any_flipped_byte_is_noticed",
    ),
    Protection(
        "a damaged shard is not recognized",
        "storage/shards",
        "except (SafetensorError, *FOREIGN):",
        "except ZeroDivisionError:",
        "test_extract::test_a_damaged_shard_is_named_set_aside_and_computed_again",
    ),
    Protection(
        "the checksum does not bind a shard to its place",
        "storage/shards",
        'hashlib.sha256(f"{key}/{shard}".encode())',
        "hashlib.sha256()",
        "test_shards::test_a_shard_of_another_place_is_refused",
    ),
    Protection(
        "manifests are not sealed",
        "storage/sealed",
        "if stated != _digest(content) and not (optional and stated is None):",
        "if False:",
        "test_drills::test_a_half_written_manifest_is_written_anew",
    ),
    Protection(
        "scored cells are not sealed",
        "storage/sealed",
        "if stated != _digest(content) and not (optional and stated is None):",
        "if False:",
        "test_drills::test_a_changed_score_is_refused",
    ),
    Protection(
        "pins are read unchecked",
        "storage/sealed",
        'raise IntegrityError(f"{path} is damaged ({error}). {remedy}") from error',
        "raise",
        "test_drills::test_half_written_pins_are_named",
    ),
    Protection(
        "no lock",
        "extraction/extract",
        "with store.lock(sorted(keys)):",
        "if True:",
        "test_extract::test_two_processes_do_the_work_once",
    ),
    Protection(
        "shipped files are not compared with their checksum",
        "storage/manifest",
        "if path.stat().st_size != size or sha256(path) != digest:",
        "if False:",
        "test_files::test_a_flipped_byte_is_reported_by_name",
    ),
    Protection(
        "any manifest.json is taken for ours",
        "storage/manifest",
        "if not any(ours):",
        "if False:",
        "test_drills::test_a_manifest_of_another_program_is_passed_over",
    ),
    Protection(
        "shipped files need no manifest",
        "storage/manifest",
        "if folder.is_relative_to(MINI):",
        "if False:",
        "test_drills::test_shipped_files_without_their_manifest_are_refused",
    ),
    Protection(
        "downloads are not pinned",
        "models/hub",
        "if changed:",
        "if False:",
        "test_language_model::test_what_was_downloaded_once_may_not_change",
    ),
    Protection(
        "no word for a gated model",
        "models/hub",
        "if has(errors.GatedRepoError):",
        "if False:",
        "test_language_model::test_what_cannot_be_fetched_is_one_sentence",
    ),
    Protection(
        "no word for a missing network",
        "models/hub",
        "if has(errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError):",
        "if False:",
        "test_language_model::test_no_network_is_one_sentence",
    ),
    Protection(
        "memory that runs out ends the run",
        "models/batches",
        'if not any(s in str(error).lower() for s in ("out of memory", "allocate memory")):',
        "if True:",
        "test_extract::test_out_of_memory_halves_the_budget_and_changes_nothing",
    ),
    Protection(
        "the texts are not part of the key",
        "extraction/jobs",
        '"data": data.fingerprint,',
        '"data": len(data),',
        "test_drills::test_a_task_that_changed_upstream_is_refused_or_computed_anew",
    ),
    Protection(
        "folds may hold one class",
        "data/splits",
        "if second_largest < 2:",
        "if False:",
        "test_drills::test_no_fold_is_fitted_on_one_class",
    ),
    Protection(
        "a task may hold one class",
        "data/splits",
        "if len(classes) < 2:",
        "if False:",
        "test_splits::test_too_few_classes_are_named",
    ),
    Protection(
        "long texts are not cut",
        "models/readers",
        "truncation=True, max_length=max_length,",
        "truncation=False,",
        "test_drills::test_a_text_of_a_hundred_thousand_tokens_is_cut_and_the_empty_one_kept",
    ),
    Protection(
        "texts are not checked for Unicode",
        "extraction/jobs",
        'check_texts(data.inputs, data.task.input_field, f"Task {data.task.key!r}")',
        "pass",
        "test_drills::test_invalid_unicode_is_refused_with_its_row",
    ),
    Protection(
        "labels of any type",
        "data/own_files",
        'if label == "" or not isinstance(label, (str, int))]',
        "if False]",
        "test_load::test_labels_of_the_wrong_type_are_refused",
    ),
    Protection(
        "text goes into the page as it is",
        "publish/tables",
        "{html.escape(first)}",
        "{first}",
        "test_drills::test_markup_in_dataset_text_stays_text",
    ),
    Protection(
        "workers do not watch their parent",
        "extraction/engines",
        "initializer=_end_with, initargs=(os.getpid(),)",
        "verbose=0",
        "test_engines::test_worker_processes_end_with_a_killed_parent",
    ),
    Protection(
        "a lost shard is not tried again",
        "extraction/ray",
        '{"max_restarts": RETRIES, "max_task_retries": RETRIES}',
        '{"max_restarts": 0, "max_task_retries": 0}',
        "test_engines::test_a_killed_ray_worker_costs_its_shard_and_nothing_else",
    ),
    Protection(
        "a sick SAE configuration is sae-lens' own error",
        "models/saes",
        "except (SafetensorError, OSError, *FOREIGN) as error:",
        "except SafetensorError as error:",
        "test_drills::test_random_damage_never_crashes_a_reader",
    ),
    Protection(
        "an SAE reads any layer",
        "models/saes",
        "if layer != spec.layer and not spec.moved:",
        "if False:",
        "test_folders::test_a_residual_stream_is_read_where_it_was_trained",
    ),
    Protection(
        "an SAE of any place is read",
        "models/saes",
        "if (hook and not found) or",
        "if",
        "test_folders::test_an_sae_of_another_place_is_refused",
    ),
    Protection(
        "nothing is centred",
        "models/saes",
        "if centred:",
        "if False:",
        "test_folders::test_the_form_of_gpt2_small_res_jb_is_read_as_it_was_trained",
    ),
    Protection(
        "the scaler of a checkpoint is passed over",
        "models/saes",
        "if (folder / SCALER[0]).is_file():",
        "if False:",
        "test_folders::test_a_checkpoint_is_read_as_sae_lens_would_finish_it",
    ),
    Protection(
        "weights may be no numbers",
        "models/saes",
        'if torch.isnan(weights).any() or (name != "threshold" and torch.isinf(weights).any()):',
        "if False:",
        "test_folders::test_nothing_of_an_sae_folder_changes_unnoticed",
    ),
    Protection(
        "numbers that are not stated are their default",
        "models/language_model",
        "if left := unstated(model):",
        "if left := list[str]():",
        "test_every_damage::test_a_share_of_all_damages_is_noticed",
    ),
    Protection(
        "metadata without a version say nothing",
        "models/saes",
        'vars(sae.cfg.metadata).update(config.get("metadata") or {})',
        "pass",
        "test_every_damage::test_no_lost_field_hides_the_place_of_an_sae",
    ),
    Protection(
        "every position counts",
        "models/language_model",
        'if padding is not None and "position" in name:',
        "if False:",
        "test_folders::test_positions_that_padding_takes_are_not_counted",
    ),
    Protection(
        "padding is what the tokenizer says",
        "models/readers",
        "pad = pad if pad < known else 0",
        "pad = pad",
        "test_folders::test_padding_beyond_the_embeddings_is_masked_and_a_token_beyond_is_named",
    ),
    Protection(
        "encoders with a decoder are read",
        "models/resolve",
        "if config.is_encoder_decoder:",
        "if False:",
        "test_folders::test_an_encoder_with_a_decoder_is_one_sentence",
    ),
    Protection(
        "`~` is a folder",
        "config/reading",
        "os.path.expanduser(folder)",
        "folder",
        "test_folders::test_places",
    ),
    Protection(
        "the first of two SAEs is read twice",
        "config/profiles",
        "if places.count((layer, width)) > 1:",
        "if False:",
        "test_folders::test_saes_are_told_apart_and_belong_to_a_layer",
    ),
    Protection(
        "of two columns of one name the last wins",
        "data/own_files",
        "if (n := names.count(name)) != 1 and (name or wanted):",
        "if not (n := names.count(name)) and (name or wanted):",
        "test_own_files::test_what_cannot_be_read_exactly_is_one_sentence",
    ),
    Protection(
        "a nameless column makes a row ragged",
        "data/own_files",
        "if len(row) < named or any(row[len(header) :]):",
        "if len(row) != len([h for h in header if h]):",
        "test_own_files::test_what_nobody_asks_for_does_not_matter",
    ),
    Protection(
        "every TSV is quoted",
        "data/own_files",
        '    if separator == "\\t":\n        plain',
        "    if separator is None:\n        plain",
        "test_own_files::test_corpora_have_no_quoting_and_spreadsheets_have",
    ),
    Protection(
        "JSON lines are texts",
        "data/own_files",
        "if all(_is_json(text) for text in texts):",
        "if False:",
        "test_own_files::test_other_kinds_of_new_texts_are_refused",
    ),
    Protection(
        "blank lines are dropped",
        "data/own_files",
        'lines = [line.removesuffix("\\r") for line in lines]',
        "lines = [line for line in lines if line.strip()]",
        "test_own_files::test_answers_stand_beside_their_lines",
    ),
    Protection(
        "own folders are cast like the paper's",
        "data/load",
        'if task.role == "own":',
        "if False:",
        "test_own_files::test_an_own_folder_must_hold_texts_too",
    ),
    Protection(
        "-1 is a class",
        "data/load",
        "if codes[:1] == [-1] and (",
        "if False and (",
        "test_own_files::test_rows_without_a_label_are_named",
    ),
    Protection(
        "blanks around a label make a class",
        "data/own_files",
        "found = [label.strip() if isinstance(label, str) else label for label in labels]",
        "found = list(labels)",
        "test_own_files::test_codes_are_names_of_classes",
    ),
    Protection(
        "large groups are drawn like others",
        "data/splits",
        "small = np.flatnonzero(rows <= most)",
        "small = np.arange(len(rows))",
        "test_splits::test_a_text_that_stands_often_does_not_decide_the_size_of_the_test_part",
    ),
    Protection(
        "a group larger than a test part may be tested",
        "data/splits",
        "((wanted / 2, 2 * wanted), (wanted, 1))",
        "((wanted / 2, 2 * wanted),)",
        "test_splits::test_one_large_group_is_trained_on",
    ),
    Protection(
        "the header of a table is a text",
        "data/own_files",
        "if is_table and rest and",
        "if False and",
        "test_own_files::test_a_table_is_no_list_of_texts",
    ),
    Protection(
        "a pointer is a file like others",
        "storage/files",
        "if file.read(len(POINTER)) == POINTER:",
        "if False:",
        "test_own_files::test_a_pointer_of_git_lfs_is_told_as_one",
    ),
    Protection(
        "warnings are not counted",
        "cli/__init__",
        "handler.addFilter(is_new)",
        "pass",
        "test_cli::test_a_warning_is_said_once_and_as_one",
    ),
    Protection(
        "a class may be tested only",
        "data/splits",
        "if unseen := sorted(set(data.labels[test]) - set(data.labels[train])):",
        "if unseen := []:",
        "test_splits::test_a_class_that_training_lacks_is_refused",
    ),
    Protection(
        "scraps are not counted",
        "experiments/own_texts",
        "if share > SPELT:",
        "if False:",
        "test_own_texts::test_a_model_that_cannot_read_the_words_is_said",
    ),
    Protection(
        "carriage returns stand without quotes",
        "cli/predictions",
        "csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL",
        "csv.QUOTE_MINIMAL",
        "test_own_data::test_a_csv_of_answers_reads_back_with_carriage_returns",
    ),
    Protection(
        "paths are taken as they are written",
        "publish/run",
        "os.path.relpath(workspace.loaded_from, root) if named else workspace.loaded_from",
        "workspace.loaded_from",
        "test_run::test_from_another_folder_it_is_as_from_the_root",
    ),
    Protection(
        "parameters of any kind",
        "publish/run",
        "if not _fits(value, default):",
        "if False:",
        "test_run::test_a_parameter_that_would_change_nothing_is_refused",
    ),
)


def _run(copy: Path, test: str) -> None:
    import pytest

    os.chdir(copy)
    sys.path[:0] = [str(copy), str(copy / "tests/helpers")]
    os.environ["PYTHONPATH"] = str(copy)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    file, name = test.split("::")
    (path,) = Path("tests").rglob(f"{file}.py")
    sys.exit(int(pytest.main([f"{path}::{name}", "-q", "-x", "-p", "no:cacheprovider"])))


def passes(copy: Path, test: str) -> bool:
    """Whether the test passes there, in a process of its own; an error in pytest itself raises."""
    process = multiprocessing.get_context("fork").Process(target=_run, args=(copy, test))
    process.start()
    process.join()
    if process.exitcode not in (0, 1):
        raise SystemExit(f"{test} could not be run (exit code {process.exitcode})")
    return process.exitcode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="part of the name of the test")
    args = parser.parse_args()
    chosen = [p for p in PROTECTIONS if args.only in p.test]
    if len(chosen) > len(PROTECTIONS) // 2:
        # Imported once here, so that each copy costs its test only; of ours nothing may be.
        import sae_lens  # noqa: F401
        import transformers  # noqa: F401

    useless = 0
    with tempfile.TemporaryDirectory(prefix="mosaic-unprotected-") as folder:
        copy = Path(folder) / "copy"
        ignored = shutil.ignore_patterns(".*", "_build", "__pycache__", "*.egg-info")
        shutil.copytree(ROOT, copy, ignore=ignored)
        for protection in chosen:
            path = copy / "mosaic" / f"{protection.module}.py"
            whole = path.read_text(encoding="utf-8")
            path.write_text(whole.replace(protection.old, protection.new), encoding="utf-8")
            held = passes(copy, protection.test)
            path.write_text(whole, encoding="utf-8")
            useless += held
            print(
                f"{'PASSES' if held else 'fails'}\t{protection.test}\t{protection.what}", flush=True
            )
    return int(useless > 0)


if __name__ == "__main__":
    sys.exit(main())
