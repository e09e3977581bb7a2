"""Mutations that once no test noticed, each with the tests that have to notice it: `make mutants NAMED=1`.

A text that is no longer in its file is an error: mend the line here when the code changes.
"""

from dataclasses import dataclass
from pathlib import Path

from tests.mutants.mutations import Mutation

UNIT = "tests/unit"
STEPS = "tests/parity/test_reference_steps.py"


@dataclass(frozen=True, slots=True)
class Named:
    """A change of one place in a file."""

    file: str
    old: str  # occurs once
    new: str
    tests: tuple[str, ...]  # files

    def mutation(self, root: Path) -> Mutation:
        """The change as a mutation.

        Raises:
            ValueError: the text isn't in the file, or more than once.
        """
        source = (root / self.file).read_text()
        if source.count(self.old) != 1:
            raise ValueError(f"{self.file}: {self.old!r} occurs {source.count(self.old)} times, expected once")
        line = source[: source.index(self.old)].count("\n") + 1
        old, new = (" ".join(text.split()) for text in (self.old, self.new))
        text = source.replace(self.old, self.new)
        return Mutation(file=self.file, place="", line=line, statement=range(0), old=old, new=new, number=1, text=text)


_LOW_RANK, _STEP = "harness/nn/low_rank.py", "harness/training/step.py"
_OF_LOW_RANK = (f"{UNIT}/harness/nn/test_low_rank.py", STEPS)
_OF_STEP = (STEPS, f"{UNIT}/harness/training/test_updates.py")
_STACKED = "a_KRI, out=self._apart(out_TI))\n        if kept_TI is not None:\n            out_TI.mul_"
_ALONE = "        torch.mm(grad_h_TC, a_KRI[0], out=out_TI)\n        if kept_TI is not None:\n            out_TI.mul_"
_BLOCKS = "a_KRI.flatten(0, 1), out=out_TI)\n        if kept_TI is not None:\n            out_TI.mul_"

_OF_CALLS = (
    f"{UNIT}/eval/judges/test_redaction.py",
    "tests/pipeline/contests/test_judge_faults.py::test_a_key_is_taken_out_of_what_is_shown_and_not_of_what_is_read",
)
_OF_RATINGS = (
    *(
        f"{UNIT}/eval/ratings/{name}.py"
        for name in ("test_known_answers", "test_agreement", "test_intervals", "test_rate")
    ),
)
_OF_SCORES = (f"{UNIT}/eval/ratings/test_known_answers.py",)
_OF_JUDGING = (f"{UNIT}/eval/judging/test_kept_judgments.py",)
_OF_PERPLEXITY = (f"{UNIT}/eval/benchmarks/test_perplexity_prefix.py",)
_OF_WORKERS = (f"{UNIT}/sweeps/workers/test_worker.py",)
_OF_WAITING = (f"{UNIT}/sweeps/launch/test_waiting.py",)
_OF_ESTIMATE = (f"{UNIT}/sweeps/plan/test_estimate.py",)
_OF_LEDGER = (f"{UNIT}/harness/ledger/test_forks.py",)
_OF_ROWS = (f"{UNIT}/sweeps/plan/test_unusable_rows.py",)

NAMED = (
    # the mask of dropout
    Named(_LOW_RANK, _ALONE + "(kept_TI)", _ALONE + "(1)", _OF_LOW_RANK),
    Named(_LOW_RANK, _BLOCKS + "(kept_TI)", _BLOCKS + "(1)", _OF_LOW_RANK),
    Named(_LOW_RANK, _STACKED + "(kept_TI)", _STACKED + "(1)", _OF_LOW_RANK),
    Named(_LOW_RANK, "torch.mul(grad_TI, kept_TI, out=out_TI)", "out_TI.copy_(grad_TI)", _OF_LOW_RANK),
    Named(_LOW_RANK, "x_TI if kept_TI is None else _dropped(x_TI, kept_TI))", "x_TI)", _OF_LOW_RANK),
    Named(_LOW_RANK, "down(_masked(x_NI[term.rows], term.mask_TI),", "down(x_NI[term.rows],", _OF_LOW_RANK),
    # memory that nobody wrote to, where members' targets differ
    Named(_LOW_RANK, "if is_all_written else torch.zeros_like(x_NI)", "", _OF_LOW_RANK),
    # clipping, schedule, what is not finite, memory
    Named(
        "harness/config/schema.py",
        "max_grad_norm: float = 0.3",
        "max_grad_norm: float = 1.0",
        (f"{UNIT}/harness/runs/test_spec.py",),
    ),
    Named(_STEP, "[member.train.max_grad_norm for member in active]", "[1.0 for member in active]", _OF_STEP),
    Named("harness/training/optim.py", "nn.utils.clip_grads_with_norm_(trained, max_norm, norm)", "pass", _OF_STEP),
    Named(
        _STEP,
        "learning_rate(member.train, member.step, member.total_steps)",
        "learning_rate(member.train, member.step + 1, member.total_steps)",
        _OF_STEP,
    ),
    Named(
        _STEP,
        "learning_rate(member.train, member.step, member.total_steps)",
        "learning_rate(member.train, max(0, member.step - 1), member.total_steps)",
        _OF_STEP,
    ),
    Named(
        _STEP,
        "batch_indices(member.train, member.num_characters, member.step)",
        "batch_indices(member.train, member.num_characters, member.step + 1)",
        _OF_STEP,
    ),
    Named(
        "harness/training/schedule.py",
        "progress = (step - warmup) / max(1, total_steps - warmup)",
        "progress = (step - warmup + 1) / max(1, total_steps - warmup)",
        (f"{UNIT}/harness/training/test_schedule.py",),
    ),
    Named(
        "harness/training/schedule.py",
        "(step + int(train.mode is Mode.fast)) / warmup",
        "step / warmup",
        (f"{UNIT}/harness/training/test_schedule.py",),
    ),
    Named(_STEP, "if math.isfinite(loss) and math.isfinite(norm):", "if math.isfinite(loss):", _OF_STEP),
    Named(_STEP, "if math.isfinite(loss) and math.isfinite(norm):", "if math.isfinite(norm):", _OF_STEP),
    Named(_STEP, "            parameter.grad = None\n", "            pass\n", _OF_STEP),
    # scales, groups, biases
    Named(
        "harness/banks/shared.py",
        "math.sqrt(config.lora_r) if config.method is AdapterMethod.rslora else config.lora_r",
        "config.lora_r",
        (STEPS,),
    ),
    Named(
        "harness/banks/shared.py",
        'AdapterMethod.rslora if saved.get("use_rslora") else AdapterMethod.lora',
        "AdapterMethod.lora",
        (f"{UNIT}/harness/banks/test_loading.py", f"{UNIT}/harness/training/test_loop.py"),
    ),
    Named(
        "harness/runs/adapter_files.py",
        '"use_rslora": config.method is AdapterMethod.rslora',
        '"use_rslora": False',
        (f"{UNIT}/harness/banks/test_loading.py", f"{UNIT}/harness/training/test_loop.py"),
    ),
    Named(
        "harness/config/schema.py",
        "{AdapterMethod.none, AdapterMethod.lora, AdapterMethod.rslora, AdapterMethod.allora}",
        "{AdapterMethod.none, AdapterMethod.lora, AdapterMethod.rslora, AdapterMethod.allora, AdapterMethod.full}",
        (f"{UNIT}/harness/runs/test_spec.py",),
    ),
    Named(
        "harness/runs/spec.py",
        "if self.adapter.method not in SHARED_BASE_METHODS or self.model.kind is not ModelKind.causal:",
        "if self.model.kind is not ModelKind.causal:",
        (f"{UNIT}/harness/runs/test_spec.py",),
    ),
    Named(
        "harness/runs/spec.py",
        "if self.adapter.method not in SHARED_BASE_METHODS or self.model.kind is not ModelKind.causal:",
        "if self.adapter.method not in SHARED_BASE_METHODS:",
        (f"{UNIT}/harness/runs/test_spec.py",),
    ),
    Named(
        "harness/nn/quant.py",
        "    layer.bias = linear.bias\n",
        "    layer.bias = None\n",
        (f"{UNIT}/harness/nn/test_quant.py",),
    ),
    # judges, ratings, votes
    Named("eval/judges/request.py", '"raw_text": redacted(text)', '"raw_text": text', _OF_CALLS),
    Named(
        "eval/judges/request.py",
        "None if judgment.reason is None else redacted(judgment.reason)",
        "judgment.reason",
        _OF_CALLS,
    ),
    Named("eval/judges/calls.py", 'self._reason(f"200 {result.model}")', 'f"200 {result.model}"', _OF_CALLS),
    Named(
        "eval/ratings/intervals.py", "stdtrit(num_clusters - 1, 0.975)", "stdtrit(num_clusters - 1, 0.95)", _OF_RATINGS
    ),
    Named("eval/ratings/intervals.py", "n - num_correct + 1, 0.025)", "n - num_correct + 1, 0.05)", _OF_RATINGS),
    Named("eval/ratings/intervals.py", "n - num_correct, 0.975)", "n - num_correct, 0.95)", _OF_RATINGS),
    Named("eval/ratings/intervals.py", "Z_95 = 1.959963984540054", "Z_95 = 1.6448536", _OF_RATINGS),
    Named(
        "eval/ratings/agreement.py", "np.percentile(drawn, [2.5, 97.5])", "np.percentile(drawn, [5, 95])", _OF_RATINGS
    ),
    Named(
        "eval/ratings/rate.py",
        "half = student_t(num) * max",
        "half = 0.8 * student_t(num) * max",
        _OF_RATINGS,
    ),
    Named(
        "eval/ratings/comparisons.py", "np.percentile(place, [2.5, 97.5]", "np.percentile(place, [5, 95]", _OF_RATINGS
    ),
    Named(
        "eval/ratings/style.py",
        "half = student_t(num_prompts) * error",
        "half = 0.8 * student_t(num_prompts) * error",
        _OF_RATINGS,
    ),
    Named("eval/ratings/elo.py", "half = 1.96 * sd", "half = 1.645 * sd", _OF_RATINGS),
    Named("eval/ratings/relative.py", "Z95 = 1.96", "Z95 = 1.645", _OF_RATINGS),
    Named(
        "eval/benchmarks/intervals.py", "np.percentile(known, [2.5, 97.5])", "np.percentile(known, [5, 95])", _OF_SCORES
    ),
    Named(
        "eval/ratings/relative.py",
        "ratio_interval(candidate, reference)",
        "ratio_interval(candidate, 0 * reference + reference.mean())",
        _OF_RATINGS,
    ),
    Named(
        "eval/ratings/relative.py",
        "best = reference.mean() + Z95 * reference.std() / sqrt(num)",
        "best = reference.mean()",
        _OF_RATINGS,
    ),
    Named("eval/ratings/rate.py", '{"sample_size": options.sample_size, "k"', '{"sample_size": None, "k"', _OF_RATINGS),
    Named(
        "eval/ratings/elo.py",
        "plays = len(matches) if sample_size is None else sample_size",
        "plays = len(matches)",
        _OF_RATINGS,
    ),
    Named("eval/ratings/elo.py", "min(sample_size or len(drawn), len(drawn))", "len(drawn)", _OF_RATINGS),
    Named(
        "eval/ratings/comparisons.py",
        "iter(holm([test[1] for test in tests if test]))",
        "iter([test[1] for test in tests if test])",
        _OF_RATINGS,
    ),
    Named(
        "eval/ratings/comparisons.py",
        "(len(p_values) - rank) * p_values[index]",
        "len(p_values) * p_values[index]",
        _OF_RATINGS,
    ),
    Named(
        "eval/ratings/agreement.py",
        "usual = (num == np.bincount(num.astype(int)).argmax())",
        "usual = (num > 0)",
        _OF_RATINGS,
    ),
    Named(
        "eval/ratings/agreement.py",
        "usual = (num == np.bincount(num.astype(int)).argmax())",
        "usual = (num == num.max())",
        _OF_RATINGS,
    ),
    Named(
        "eval/verdicts/table.py",
        "combined_key([judge, votes.question, votes.turn, low, high])",
        "combined_key([votes.question, votes.turn, low, high])",
        (*_OF_RATINGS, f"{UNIT}/eval/verdicts"),
    ),
    Named(
        "eval/verdicts/table.py",
        "combined_key([judge, votes.question, votes.turn, low, high])",
        "combined_key([judge, votes.question, low, high])",
        (f"{UNIT}/eval/verdicts",),
    ),
    Named(
        "analysis/paper/tables.py",
        "ELO_TOLERANCE = 2.0",
        "ELO_TOLERANCE = 20.0",
        (f"{UNIT}/analysis/paper/test_tolerances.py",),
    ),
    Named(
        "analysis/paper/tables.py",
        "ours=half, tolerance=0.5)",
        "ours=half, tolerance=5)",
        (f"{UNIT}/analysis/paper/test_tolerances.py",),
    ),
    Named(
        "analysis/paper/tables.py",
        "ours=value, low=low",
        "ours=value, tolerance=0.5, low=low",
        (f"{UNIT}/analysis/paper/test_tolerances.py",),
    ),
    Named(
        "eval/human/store.py",
        'connection.execute("BEGIN IMMEDIATE")',
        'connection.execute("BEGIN")',
        (f"{UNIT}/eval/human/test_transactions.py",),
    ),
    Named("eval/human/store.py", 'connection.execute("BEGIN")', "pass", (f"{UNIT}/eval/human/test_transactions.py",)),
    Named(
        "eval/judging/store.py",
        "DO UPDATE SET {updates} WHERE judgments.verdict = -1",
        "DO UPDATE SET {updates}",
        _OF_JUDGING,
    ),
    Named("eval/judging/store.py", "DO UPDATE SET {updates} WHERE judgments.verdict = -1", "DO NOTHING", _OF_JUDGING),
    Named(
        "eval/benchmarks/perplexity/score.py",
        "tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id",
        "tokenizer.bos_token_id or tokenizer.eos_token_id",
        _OF_PERPLEXITY,
    ),
    Named(
        "eval/benchmarks/perplexity/score.py",
        "tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id",
        "0",
        _OF_PERPLEXITY,
    ),
    # workers, waiting, estimates, the ledger
    Named(
        "sweeps/workers/serve.py",
        "        context.give_back(context.held)\n        return False\n",
        "        return False\n",
        _OF_WORKERS,
    ),
    Named(
        "sweeps/workers/serve.py",
        "        context.give_back(context.held)\n        return False\n",
        "        context.give_back(context.held)\n        return True\n",
        _OF_WORKERS,
    ),
    Named(
        "sweeps/workers/serve.py",
        "    with _leases_renewed(context):\n        return _run",
        "    if True:\n        return _run",
        _OF_WORKERS,
    ),
    Named(
        "sweeps/workers/serve.py", "            context.renew(list(context.held))\n", "            pass\n", _OF_WORKERS
    ),
    Named(
        "sweeps/workers/serve.py",
        "        ended.set()\n        thread.join()\n",
        "        thread.join(0)\n",
        _OF_WORKERS,
    ),
    Named(
        "sweeps/workers/serve.py",
        "while not stop.is_set() and work_once(context, name):",
        "while work_once(context, name):",
        _OF_WORKERS,
    ),
    Named(
        "sweeps/workers/serve.py", "    stop.set()\n\n\ndef _end_with_parent", "\n\ndef _end_with_parent", _OF_WORKERS
    ),
    Named(
        "sweeps/workers/serve.py",
        "for status in (JobStatus.queued, JobStatus.claimed)",
        "for status in (JobStatus.queued,)",
        _OF_WORKERS,
    ),
    Named(
        "sweeps/jobs/context.py",
        "unsettled = [claim for claim in claims if claim.job_id not in self.settled]",
        "unsettled = list(claims)",
        _OF_WORKERS,
    ),
    Named(
        "sweeps/jobs/context.py",
        "self.lost |= {claim.job_id for claim in unsettled} - held - self.settled",
        "pass",
        _OF_WORKERS,
    ),
    Named(
        "sweeps/workers/worker.py",
        "settings.launch.devices_per_run > 1",
        "settings.launch.devices_per_run > 2",
        _OF_WORKERS,
    ),
    Named("sweeps/workers/worker.py", "return caught[0] if caught else None", "return None", _OF_WORKERS),
    Named(
        "sweeps/workers/worker.py",
        "return caught[0] if caught else None",
        "return caught[-1] if caught else None",
        _OF_WORKERS,
    ),
    Named("sweeps/workers/worker.py", "stopped_by(stop, stop_on)", "stopped_by(stop, ())", _OF_WORKERS),
    Named(
        "sweeps/workers/worker.py",
        "prepare_worker(connection, threads, stop)",
        "prepare_worker(None, threads, stop)",
        _OF_WORKERS,
    ),
    Named(
        "sweeps/workers/worker.py",
        "prepare_worker(connection, threads, stop)",
        "prepare_worker(connection, None, stop)",
        _OF_WORKERS,
    ),
    Named("sweeps/workers/worker.py", "worker_name(os.getpid())", "worker_name(1)", _OF_WORKERS),
    Named(
        "sweeps/launch/waiting.py",
        "total[JobStatus.queued] + total[JobStatus.claimed]",
        "total[JobStatus.queued]",
        _OF_WAITING,
    ),
    Named(
        "sweeps/launch/waiting.py",
        "total[JobStatus.queued] + total[JobStatus.claimed]",
        "total[JobStatus.claimed]",
        _OF_WAITING,
    ),
    Named(
        "sweeps/launch/waiting.py",
        "None if workers_left() else gone_since or time.monotonic()",
        "gone_since if workers_left() else gone_since or time.monotonic()",
        _OF_WAITING,
    ),
    Named("sweeps/launch/waiting.py", "gone_since or time.monotonic()", "time.monotonic()", _OF_WAITING),
    Named("sweeps/launch/waiting.py", "> SETTLE_SECONDS", "> 0", _OF_WAITING),
    Named(
        "sweeps/launch/waiting.py",
        "for status in (JobStatus.queued, JobStatus.claimed)",
        "for status in (JobStatus.queued,)",
        _OF_WAITING,
    ),
    Named("sweeps/plan/estimate.py", '"block_size", "compute_dtype")]', '"block_size")]', _OF_ESTIMATE),
    Named("sweeps/plan/estimate.py", 'quant, spec["adapter"]["method"], layout', "quant, layout", _OF_ESTIMATE),
    Named("sweeps/plan/estimate.py", "layout, _data_key(spec)])", "layout])", _OF_ESTIMATE),
    Named("sweeps/plan/estimate.py", "statistics.median(recorded)", "max(recorded)", _OF_ESTIMATE),
    Named("sweeps/plan/estimate.py", "keep * (kept + moments)", "keep * kept", _OF_ESTIMATE),
    Named(
        "harness/ledger/database.py",
        "        if self._pid != os.getpid():  # forked",
        "        if False:  # forked",
        _OF_LEDGER,
    ),
    Named(
        "harness/ledger/database.py",
        "self._inherited, self._engine = self._engine, None",
        "self._engine.dispose()\n            self._engine = None",
        _OF_LEDGER,
    ),
    Named(
        "harness/ledger/database.py",
        "if self._engine is not None and self._pid == os.getpid():\n                self._engine.dispose()",
        "if self._engine is not None:\n                self._engine.dispose()",
        _OF_LEDGER,
    ),
    Named(
        "sweeps/plan/rows.py",
        "elif dataset.empty_targets is EmptyTargets.refuse:",
        "elif dataset.empty_targets is EmptyTargets.drop:",
        _OF_ROWS,
    ),
    Named("sweeps/plan/rows.py", "elif dataset.empty_targets is EmptyTargets.refuse:", "else:", _OF_ROWS),
    Named("sweeps/plan/rows.py", "        require_target(example, row)\n", "        pass\n", _OF_ROWS),
)
