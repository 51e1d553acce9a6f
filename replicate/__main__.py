"""Command line: `python -m replicate VERB`. Each stage of the Makefile is one verb."""

import argparse
import contextlib
import os
import sys

from replicate import grid, paths
from replicate.errors import UserError

EXAMPLES = """examples:
  python -m replicate grid --method SimCLR --sweep temp
  python -m replicate data --profile mini
  python -m replicate data status
  python -m replicate pretrain SimCLR-15 'VICReg-1?' --profile mini
  python -m replicate evaluate SimCLR-15 --datasets imagenet,cars
  python -m replicate compile --profile mini
  python -m replicate rank embeddings.npy
  python -m replicate select sweep.csv
"""
RANK = """Effective rank of the features in FILES: RankMe, or every estimator.

A FILE is an (N, K) matrix, a row a sample, as .npy, .npz, .safetensors, .pt, .pth, .csv, .tsv or .parquet, or a
folder of such files, which make one matrix in sorted order. Files are streamed: 10 million x 512 as .npy needs less
than 1 GB of memory. Take embeddings of the training set without augmentation, 25,600 samples or more, and more samples
than dimensions. Compare runs of one method only, with the same N and K: a higher rank is better only then.
"""
RANK_EXAMPLES = """examples:
  python -m replicate rank embeddings.npy
  python -m replicate rank runs/*/embeddings.npy --stderr --plot spectra.png
  python -m replicate rank checkpoint_features.pt --key projector --all
  python -m replicate rank table.csv --drop id,label
  python -m replicate rank shards/ --json
  python -m replicate rank runs/*.npy --csv > ranks.csv && python -m replicate select ranks.csv

--all: SelfCluster, coherence and CLID look at the rows themselves, at a random part (seed 0) of what exceeds 256 MB,
and say so; CLID at 10,000 rows. LiDAR needs several views a sample: an array (views, samples, width),
of which each view of each sample counts as a row for the other estimators.
--json, --csv: file, estimator, value, stderr, n_samples, width, error_bound (relative, of rankme), detail.
Exit status: 0; 2 where a file could not be ranked (one line says why), the others are.
"""
SELECT = """Choose from a sweep without labels: the run of highest RankMe, and the first on its plateau.

TABLE.csv has one row a run. Columns: `run`; `method` and `sweep`, where there are several (a choice is made in each,
never across methods); estimators under their names, such as rankme; the swept hyper-parameter; `accuracy`, where known,
which no choice looks at: it only tells how good they were. The CSV of `python -m replicate rank --csv` will do.
"""
SELECT_EXAMPLES = """examples:
  python -m replicate select sweep.csv
  python -m replicate select sweep.csv --by rankme,alpha_req --value temperature --accuracy top1
  python -m replicate select sweep.csv --noise 0.05 --json

The plateau rule takes the lowest value of the hyper-parameter whose rank is within the noise of the highest. The noise
is that of repeated configurations in the table; without any, 3.1 %: the median of (max - min) / 2 / mean over the
repeated trainings of this package's mini study.
"""
DATA = """Without an action: prepare the profile's data sets, as `make data` does.

The actions are about the real sets, which lie below DATA_ROOT as data_manifests/*.yaml describe them.
"""
DATA_ACTIONS = {
    "status": ("which sets are there: layout, images, archives, what to do", """examples:
  DATA_ROOT=~/data python -m replicate data status
  DATA_ROOT=~/data python -m replicate data status cifar10 sun397"""),
    "verify": ("check sets: counts, lists, archives' checksums, every image decoded", """examples:
  DATA_ROOT=~/data python -m replicate data verify eurosat
  DATA_ROOT=~/data python -m replicate data verify imagenet --jobs 8
  DATA_ROOT=~/data python -m replicate data verify imagenet --quick

Exit status: 0 if all are whole, or known reduced copies, which it says; else 2."""),
    "prepare": ("make splits, class folders of links and the file lists that VISSL reads", """examples:
  DATA_ROOT=~/data python -m replicate data prepare sun397 clevr_count
  DATA_ROOT=/datasets python -m replicate data prepare inat18 --out ~/prepared

Writes DATA_ROOT/prepared/NAME/ (or DIR/NAME/): {train,val}/CLASS/ links, {train,val}_{images,labels}.npy and
dataset_catalog.json, for VISSL_DATASET_CATALOG_PATH. No image is copied; a second call changes nothing."""),
    "download": ("download and unpack sets whose licence and address allow it", """examples:
  DATA_ROOT=~/data python -m replicate data download cifar10 eurosat voc07

Archives go to DATA_ROOT/archives and are checked before they are unpacked. Broken off, the same command goes on. For a
set that needs a registration it says what to do."""),
}  # fmt: skip


def parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser("python -m replicate", description=__doc__, epilog=EXAMPLES, formatter_class=raw)
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, help_: str, runs: bool = False, datasets: bool = False) -> argparse.ArgumentParser:
        one = verbs.add_parser(name, help=help_, description=help_)
        if runs:
            one.add_argument("runs", nargs="*", help="names or globs such as 'SimCLR-1?'; all if left out")
            one.add_argument("--seeds", default="0", help="comma-separated seeds (default 0)")
            one.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, or auto (default)")
            one.add_argument("--cached", action="store_true", help="cells already in the CSVs count as done")
        if datasets:
            one.add_argument("--datasets", default="", help="comma-separated data sets; the profile's if left out")
        one.add_argument("--profile", default=os.environ.get("PROFILE", "mini"), help="mini, small, paper or a .yaml file")
        return one

    listing = verb("grid", "list the runs of the study")
    listing.add_argument("runs", nargs="*", help="names or globs")
    listing.add_argument("--method", help=", ".join(grid.METHODS))
    listing.add_argument("--sweep", help=", ".join(grid.SWEPT))
    listing.add_argument("--names", action="store_true", help="names only, of the runs that the profile can train")
    verb("plan", "say what a study would compute and how long that takes", runs=True)
    _data_options(verb("data", "prepare the data sets; status, verify, download, … of real ones", datasets=True))
    verb("preview", "write a contact sheet of each data set", datasets=True)
    verb("pretrain", "pretrain runs", runs=True)
    probing = verb("evaluate", "probe runs on the data sets, and store their spectra", runs=True, datasets=True)
    probing.add_argument("--engine", choices=("native", "vissl"), help="whose probes; the profile's if left out")
    probing.add_argument("--train", action="store_true", help="pretrain a run first that is not trained")
    parity = verb("vissl-parity", "probe runs by both engines for several probe seeds", runs=True, datasets=True)
    parity.add_argument("--probe-seeds", type=int, default=3, metavar="N", help="of VISSL (3)")
    parity.add_argument("--train", action="store_true", help="pretrain a run first that is not trained")
    parity.add_argument("--table", action="store_true", help="only write results/<profile>/vissl_parity.csv")
    verb("rank-runs", "apply the rank estimators to the spectra of the study's runs", runs=True, datasets=True)
    verb("compile", "merge runs/ into results/<profile>/*.csv").add_argument("--seeds", default="0")
    judging = verb("claims", "the verdict on every claim, into results/<profile>/claims.csv")
    judging.add_argument("--measure-cheap", type=int, metavar="IMAGES", help="first time the embedding of so many random "
                         "224 px images by a ResNet-50 and the spectrum of 25,600 x 2,048, for the claim `cheap`")
    _rank_options(verbs.add_parser("rank", help="RankMe of feature files of your own", description=RANK,
                                   epilog=RANK_EXAMPLES, formatter_class=raw))  # fmt: skip
    _select_options(verbs.add_parser("select", help="choose a run from a table of your own", description=SELECT,
                                     epilog=SELECT_EXAMPLES, formatter_class=raw))  # fmt: skip
    return top


def _data_options(one: argparse.ArgumentParser) -> None:
    one.description, one.formatter_class = DATA, argparse.RawDescriptionHelpFormatter
    actions = one.add_subparsers(dest="action", metavar="ACTION")
    for name, (help_, epilog) in DATA_ACTIONS.items():
        action = actions.add_parser(name, help=help_, description=help_.capitalize() + ".", epilog=epilog,
                                    formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
        action.add_argument("names", nargs="*" if name == "status" else "+", metavar="NAME",
                            help="data sets" + ("; all if left out" if name == "status" else ""))  # fmt: skip
        if name == "verify":
            action.add_argument("--quick", action="store_true", help="names and counts only: no checksum, no image")
            action.add_argument("--jobs", type=int, metavar="N", help="processes that decode (the cores, at most 8)")
        if name == "prepare":
            action.add_argument("--out", metavar="DIR", help="instead of DATA_ROOT/prepared")
        if name == "download":
            action.add_argument("--force", action="store_true", help="unpack again what is there; archives are kept")


def _rank_options(one: argparse.ArgumentParser) -> None:
    one.add_argument("files", nargs="+", metavar="FILE", help="a file, or a folder of files that make one matrix")
    one.add_argument("--all", action="store_true", help="every estimator, not RankMe only")
    one.add_argument("--stderr", action="store_true", help="jackknife standard errors: another draw of samples, not "
                     "another training; have the rows in random order; takes 20 x K x K x 8 bytes of memory")  # fmt: skip
    one.add_argument("--key", metavar="NAME", help="array of an .npz, .pt or .safetensors, list column of a .parquet")
    one.add_argument("--drop", metavar="COLUMNS", help="columns of a .csv or .parquet that are no features, by commas")
    one.add_argument("--precision", choices=("float64", "float32"), default="float64",
                     help="of the products; float32 is for hardware slow in float64, its error bound larger")
    one.add_argument("--plot", metavar="PNG", help="draw the singular values (.png, .pdf or .svg)")
    _format_options(one)


def _select_options(one: argparse.ArgumentParser) -> None:
    one.add_argument("table", metavar="TABLE.csv", help="one row a run")
    one.add_argument("--by", default="rankme", metavar="NAMES", help="estimators that choose, by commas (rankme)")
    one.add_argument("--value", metavar="COLUMN", help="the swept hyper-parameter, for the plateau rule")
    one.add_argument("--accuracy", metavar="COLUMN", help="labels' verdict, in percent or a fraction (accuracy)")
    one.add_argument("--noise", type=float, metavar="X", help="relative width of the plateau, such as 0.03")
    _format_options(one)


def _format_options(one: argparse.ArgumentParser) -> None:
    formats = one.add_mutually_exclusive_group()
    formats.add_argument("--json", action="store_true", help="JSON on stdout")
    formats.add_argument("--csv", action="store_true", help="CSV on stdout")


def device_of(name: str) -> str:
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def list_grid(args, profile) -> None:
    runs = grid.select(args.runs, args.method, args.sweep)
    if args.names:
        print("\n".join(run.run for run in runs if profile.source_of(run)))
        return
    mark = {"transcribed": "", "inferred": "*", "proposed": "?"}
    print(f"{'run':16} {'sweeps':24} {'source':9} hyper-parameters")
    for run in runs:
        values = [f"{name}={getattr(run, name)}{mark[run.provenance(name)]}" for name in grid.HYPERPARAMETERS
                  if getattr(run, name) is not None]
        sweeps = " ".join(run.sweeps) + (" (extra)" if run.extra else "")
        print(f"{run.run:16} {sweeps:24} {run.source:9} {' '.join(values)}")
    extra = sum(run.extra for run in runs)
    print(f"{len(runs) - extra} runs of the paper's 110 and {extra} extra; * inferred, ? proposed, else transcribed")


def names_of(args, profile) -> list[str]:
    """The data sets asked for; with SKIP_MISSING=1 those that are absent are left out, as a declared gap."""
    from replicate.data import manifest

    names = [name for name in args.datasets.replace(",", " ").split() if name] or profile.datasets
    for name in names:
        if name not in profile.datasets:
            raise UserError(f"data set '{name}' is not in profile {profile.name}: it has {', '.join(profile.datasets)}")
    if os.environ.get("SKIP_MISSING") != "1" or profile.kind == "microworld":
        return names
    there = [name for name in names if manifest.available(manifest.load(name), profile.data_root)
             or (paths.data_dir(profile.name, name) / "meta.json").exists()]
    for name in sorted(set(names) - set(there)):
        print(f"{name}: missing, left out (SKIP_MISSING=1)", file=sys.stderr)
    return there


def prepare(args, profile) -> None:
    from replicate.data import cache

    for name in names_of(args, profile):
        cache.prepare(profile, name)


def data(args) -> int:
    """An action on real sets, or without one the study's stage; the status is 2 where a set is not whole."""
    if args.action is None:
        return run_stage(args)
    from replicate.data import links, manifest, verify

    root = paths.data_root()
    if root is None:
        raise UserError("DATA_ROOT is not set: it is the folder of the real data sets, as DATA_ROOT=~/data")
    if args.action != "download" and not root.is_dir():
        raise manifest.no_root(root)
    sets = [manifest.load(name) for name in args.names]
    if args.action == "status":
        verify.status(args.names or manifest.names(), root)
    elif args.action == "verify":
        jobs = verify.cores() if args.jobs is None else args.jobs
        if jobs < 1:
            raise UserError(f"--jobs is {jobs}, it must be 1 or more")
        return 2 if any([verify.verify(one, root, jobs, args.quick) for one in sets]) else 0
    elif args.action == "download":
        return 2 if any([_download(one, root, args.force) for one in sets]) else 0
    else:
        out = paths.from_user(args.out, "--out") if args.out else None
        for one in sets:
            print(links.prepare(one, root, out)
                  or f"{one.name}: files of many images, nothing to link; VISSL reads them through torchvision")
    return 0


def _download(one, root, force: bool) -> bool:
    """Download a set and say so; True where it lacks something after that."""
    from replicate.data import archives

    done, lack = archives.download(one, root, force)
    again = " (--force unpacks it again)" if done == "there already" else ""
    check = f"`python -m replicate data verify {one.name}` checks it"
    print(f"{one.name}: {done}, but not whole: {lack}" if lack else f"{one.name}: {done}{again}; {check}", flush=True)
    return lack is not None


def preview(args, profile) -> None:
    from replicate.data import preview

    for name in names_of(args, profile):
        print(preview.write(profile, name))


def jobs(args, profile):
    """(run, seed) pairs asked for. A run whose source the profile lacks is an error if it was named, else left out."""
    seeds = seeds_of(args.seeds)
    runs = grid.select(args.runs)
    for run in runs:
        if profile.source_of(run) is None and run.run in args.runs:
            raise UserError(f"{run.run}: profile {profile.name} has no data set in the place of its source {run.source}")
    return [(run, seed) for run in runs if profile.source_of(run) for seed in seeds]


def seeds_of(text: str) -> list[int]:
    seeds = text.replace(",", " ").split()
    if not seeds or not all(seed.isascii() and seed.isdigit() for seed in seeds):
        raise UserError(f"--seeds is {text!r}: expected whole numbers separated by commas, as 0,1,2")
    return [int(seed) for seed in seeds]


def plan(args, profile) -> None:
    from replicate import study

    wanted = jobs(args, profile)
    done = sum(study.pretrain_path(profile, run, seed).exists() for run, seed in wanted)
    print(f"profile {profile.name}: {len(wanted)} trainings, {done} of them in runs/ already. {profile.hours_hint}")


def pretrain(args, profile) -> None:
    from replicate import compile, study

    for run, seed in jobs(args, profile):
        _prepare_absent(profile, [profile.source_of(run)])
        if study.is_done(profile, run, seed, "pretrain") or (args.cached and compile.cached(profile, run, seed, "pretrain")):
            continue
        _train(args, profile, run, seed)


def _train(args, profile, run, seed) -> None:
    from replicate import pretrain  # torch takes 2 s to import, which a finished run does not need

    row = pretrain.pretrain(profile, run, seed, device_of(args.device))
    loss = "none" if row["final_loss"] is None else f"{row['final_loss']:.4g}"
    print(f"{run.run} seed {seed}: {row['status']}, loss {loss}, {row['wall_seconds']} s {row['note']}", flush=True)


def _train_if_asked(args, profile, run, seed) -> None:
    """With --train: pretrain what is not trained, but not at sizes where that takes hours instead of a minute."""
    from replicate import study

    if args.train and profile.network == "thin_resnet" and not study.is_done(profile, run, seed, "pretrain"):
        _train(args, profile, run, seed)


def _prepare_absent(profile, names) -> None:
    """Prepare the data sets that are not there at all; `make data` also replaces what is stale."""
    from replicate.data import cache

    for name in names:
        if not (paths.data_dir(profile.name, name) / "meta.json").exists():
            cache.prepare(profile, name)


def evaluate(args, profile) -> None:
    from replicate import compile, study

    stage, wanted = {"native": "evaluate", "vissl": "vissl"}[args.engine or profile.engine], names_of(args, profile)
    for run, seed in jobs(args, profile):
        _prepare_absent(profile, {profile.source_of(run), *wanted})
        cached = [name for name in wanted if args.cached and compile.cached(profile, run, seed, stage, name)]
        names = [name for name in wanted if name not in cached and not study.is_done(profile, run, seed, stage, name)]
        if cached:
            print(f"{run.run} seed {seed}: {len(cached)} data sets are in {results_of(profile)} already", flush=True)
        if names:
            _train_if_asked(args, profile, run, seed)
        if not names or not _is_trained(profile, run, seed):
            continue
        if stage == "vissl":
            from replicate.probes.vissl import job

            job.evaluate(profile, run, seed, names, device_of(args.device))
        else:
            from replicate import evaluate

            evaluate.evaluate(profile, run, seed, names, device_of(args.device))
        print(f"{run.run} seed {seed}: evaluated on {len(names)} data sets", flush=True)


def results_of(profile) -> str:
    return os.path.relpath(paths.results_dir(profile.name))


def vissl_parity(args, profile) -> None:
    from replicate.probes.vissl import parity

    if args.table:
        rows = parity.write(profile, jobs(args, profile))
        agree = sum(row["agrees"] == "yes" for row in rows)
        print(f"{agree} of {len(rows)} cells agree within one point or twice the spread over probe seeds")
        return
    if args.probe_seeds < 1:
        raise UserError(f"--probe-seeds is {args.probe_seeds}, it must be 1 or more")
    wanted = names_of(args, profile)
    for run, seed in jobs(args, profile):
        _prepare_absent(profile, {profile.source_of(run), *wanted})
        _train_if_asked(args, profile, run, seed)
        if _is_trained(profile, run, seed):
            parity.compute(profile, run, seed, wanted, args.probe_seeds, device_of(args.device))


def rank_runs(args, profile) -> None:
    from replicate import compile, ranks, study

    for run, seed in jobs(args, profile):
        names = [name for name in names_of(args, profile)
                 if not (args.cached and compile.cached(profile, run, seed, "rank", name))]
        if not names or not _is_trained(profile, run, seed):
            continue
        missing = [name for name in names if not study.is_done(profile, run, seed, "spectra", name)]
        if missing:
            from replicate import evaluate

            evaluate.evaluate(profile, run, seed, missing, device_of(args.device), probes=False)
        for name in names:
            ranks.rank(profile, run, seed, name)


def _is_trained(profile, run, seed) -> bool:
    """Raise where the run is not trained; False, with a line, where it diverged before its first checkpoint."""
    from replicate import stages, study

    marker = stages.read_output(study.pretrain_path(profile, run, seed), study.pretrain_hash(profile, run, seed))
    if marker is None:
        raise UserError(f"{run.run} seed {seed} is not trained: run `make pretrain PROFILE={profile.name} RUNS={run.run}`")
    if marker["status"] == "diverged" and not study.checkpoint_path(profile, run, seed).exists():
        print(f"{run.run} seed {seed}: diverged before its first checkpoint, nothing to evaluate", file=sys.stderr)
        return False
    return True


def compile_(args, profile) -> None:
    from replicate import compile

    compile.compile_results(profile, seeds_of(args.seeds))


def claims_(args, profile) -> None:
    from collections import Counter

    from replicate import claims

    if args.measure_cheap is not None:
        claims.measure_cheap(profile.name, images=args.measure_cheap)
    verdicts = Counter(row["verdict"] for row in claims.write(profile.name) if not row["part"])
    print(f"profile {profile.name}: " + ", ".join(f"{verdicts[verdict]} {verdict}" for verdict in claims.VERDICTS))


def rank(args) -> int:
    """RankMe of the user's files; the status is 2 where one could not be ranked."""
    from replicate.rank import files, report

    report.check_plot(args.plot)
    drop = tuple(name.strip() for name in args.drop.split(",")) if args.drop is not None else ()
    ranked, status = [], 0
    for path in args.files:
        try:
            one = report.rank(files.open_matrix(path, args.key, drop), args.all, args.precision, args.stderr)
        except UserError as error:
            print(f"replicate rank: {error}", file=sys.stderr)
            status = 2
            continue
        ranked.append(one)
        if not (args.json or args.csv):
            print(report.table(one) if args.all else report.line(one), flush=True)
    rows = [row for one in ranked for row in one.rows]
    if args.json:
        print(report.as_json(rows))
    elif args.csv:
        report.write_csv(rows, sys.stdout)
    report.warn(ranked)
    if args.plot and ranked:
        report.plot(ranked, args.plot)
    return status


def select(args) -> int:
    """A choice from the user's table; the status is 2 where there is none."""
    from replicate import choose

    table = choose.read(args.table)
    names = [name.strip() for name in args.by.split(",") if name.strip()]
    rows, remarks = choose.choose(table, names, args.value, args.accuracy, args.noise)
    choose.show(rows, remarks, args.json, args.csv)
    return 0 if rows else 2


STAGES = {"grid": list_grid, "plan": plan, "data": prepare, "preview": preview, "pretrain": pretrain,
          "evaluate": evaluate, "vissl-parity": vissl_parity, "rank-runs": rank_runs, "compile": compile_,
          "claims": claims_}  # fmt: skip
TOOLS = {"rank": rank, "select": select, "data": data}  # for what is the user's own: no profile, all cores


def run_stage(args) -> int:
    from replicate import profile

    loaded = profile.load(args.profile)
    for library in ("OMP", "OPENBLAS", "MKL"):  # before numpy and torch are imported, which read it once
        os.environ[f"{library}_NUM_THREADS"] = str(loaded.threads)
    STAGES[args.verb](args, loaded)
    return 0


def _drop_output() -> None:
    """What is left in stdout's buffer goes nowhere, and not to a second error at the very end."""
    with contextlib.suppress(OSError, ValueError):  # no file behind it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        status = TOOLS.get(args.verb, run_stage)(args)
        sys.stdout.flush()  # a full disk or a closed pipe shows here and not after the end
        return status
    except UserError as error:
        print(f"replicate {args.verb}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        _drop_output()
        return 1
    except OSError as error:  # a full disk under a log, a folder that cannot be read
        print(f"replicate {args.verb}: {error.filename or 'output'}: {error.strerror or error}", file=sys.stderr)
        _drop_output()
        return 2
    except KeyboardInterrupt:
        again = "" if args.verb not in STAGES else "; the same command goes on from here"
        print(f"replicate {args.verb}: interrupted{again}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
