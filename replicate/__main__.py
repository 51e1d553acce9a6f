"""Command line: `python -m replicate VERB`. Each stage of the Makefile is one verb."""

import argparse
import contextlib
import os
import sys

from replicate import commands, grid, preempt, progress, tools
from replicate.errors import UserError

EXAMPLES = """examples:
  python -m replicate grid --method SimCLR --sweep temp
  python -m replicate data --profile mini
  python -m replicate data status
  python -m replicate pretrain SimCLR-15 'VICReg-1?' --profile mini
  python -m replicate evaluate SimCLR-15 --datasets imagenet,cars
  python -m replicate compile --profile mini
  python -m replicate import ~/from-the-cluster/VICReg-*.tar --profile paper
  python -m replicate merge ~/other-machine/results/paper --profile paper
  python -m replicate verify --draw 1
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
is that of repeated configurations in the table; without any, 9.2 %: the median of (max - min) / 2 / mean over the
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
            one.set_defaults(train=False)
        if datasets:
            one.add_argument("--datasets", default="", help="comma-separated data sets; the profile's if left out")
        one.add_argument("--profile", default=os.environ.get("PROFILE", "mini"), help="mini, small, paper or a .yaml file")
        return one

    listing = verb("grid", "list the runs of the study")
    listing.add_argument("runs", nargs="*", help="names or globs")
    listing.add_argument("--method", help=", ".join(grid.METHODS))
    listing.add_argument("--sweep", help=", ".join(grid.SWEPT))
    listing.add_argument("--finetuned", action="store_true", help="only those of table 3's sweeps")
    listing.add_argument("--names", action="store_true", help="names only, of the runs that the profile can train")
    planning = verb("plan", "what a study would compute, on what and how long: hours, days, memory, disk", runs=True)
    planning.add_argument("--machine", default="", help="whose images/s: a100-torchvision or a100-ffcv (published), "
                          "cached (of the rows in results/), here (some steps are timed); if left out the first one for "
                          "the paper's network, else cached")  # fmt: skip
    planning.add_argument("--gpus", type=int, default=8, metavar="N", help="GPUs for the whole study (8)")
    planning.add_argument("--jobs", type=int, default=2, metavar="N", help="trainings at a time, on a CPU (2)")
    planning.add_argument("--short", action="store_true", help="the first line only")
    verb("status", "a table of the trainings: done, running, stopped, failed; epochs, images/s, time left", runs=True)
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
    verb("finetune", "train table 3's runs on few labels, and for detection", runs=True, datasets=True)
    verb("compile", "merge runs/ into results/<profile>/*.csv").add_argument("--seeds", default="0")
    bringing = verb("import", "bring in runs that were trained elsewhere, each checked first")
    bringing.add_argument("places", nargs="+", metavar="DIR", help="run folders (pretrain.json, checkpoint.pt), a folder "
                          "of them, or a .tar of it")  # fmt: skip
    merging = verb("merge", "add the rows of other machines' CSVs to results/<profile>/")
    merging.add_argument("places", nargs="+", metavar="DIR", help="their results/<profile>/ folders")
    exporting = verb("export", "write a trained backbone for detectron2, with its configuration, or for torchvision")
    exporting.add_argument("run", metavar="RUN", help="name of the run")
    exporting.add_argument("--seed", type=int, default=0, help="of the training (0)")
    exporting.add_argument("--format", choices=("detectron2", "torchvision"), required=True)
    exporting.add_argument("--out", metavar="DIR", required=True, help="folder, made where it is absent")
    _verify_options(verb("verify", "recompute a sample of the study and compare it with the CSVs", datasets=True))
    judging = verb("claims", "the verdict on every claim, into results/<profile>/claims.csv")
    judging.add_argument("--measure-cheap", type=int, metavar="IMAGES", help="first time the embedding of so many random "
                         "224 px images by a ResNet-50 and the spectrum of 25,600 x 2,048, for the claim `cheap`")
    _rank_options(verbs.add_parser("rank", help="RankMe of feature files of your own", description=RANK,
                                   epilog=RANK_EXAMPLES, formatter_class=raw))  # fmt: skip
    _select_options(verbs.add_parser("select", help="choose a run from a table of your own", description=SELECT,
                                     epilog=SELECT_EXAMPLES, formatter_class=raw))  # fmt: skip
    return top


def _verify_options(one: argparse.ArgumentParser) -> None:
    one.epilog = "Exit status: 0 if all is equal or within the noise of retraining; 2 if it differs or cannot be told."
    one.add_argument("runs", nargs="*", help="names or globs instead of one drawn run a method")
    one.add_argument("--draw", type=int, default=0, metavar="N", help="seed of the draw (0)")
    one.add_argument("--seeds", default="0", metavar="SEED", help="of the trainings: one that is cached (0)")
    one.add_argument("--jobs", type=int, default=2, metavar="N", help="trainings at a time (2)")
    one.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, or auto (default)")
    one.add_argument("--engine", choices=("native", "vissl"), help="no other than the profile's can be verified")


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


def run_stage(args) -> int:
    from replicate import profile

    loaded = profile.load(args.profile)
    for library in ("OMP", "OPENBLAS", "MKL"):  # before numpy and torch are imported, which read it once
        os.environ[f"{library}_NUM_THREADS"] = str(loaded.threads)
    return commands.STAGES[args.verb](args, loaded) or 0


def _drop_output() -> None:
    """What is left in stdout's buffer goes nowhere, and not to a second error at the very end."""
    with contextlib.suppress(OSError, ValueError):  # no file behind it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        staged = args.verb not in tools.TOOLS or (args.verb == "data" and args.action is None)
        status = (run_stage if staged else tools.TOOLS[args.verb])(args)
        sys.stdout.flush()  # a full disk or a closed pipe shows here and not after the end
        return status
    except UserError as error:
        print(f"replicate {args.verb}: {error}", file=sys.stderr)
        return 2
    except preempt.Preempted as stop:
        if progress.speaks():
            print(f"replicate {args.verb}: {stop}; the same command goes on from here", file=sys.stderr)
        return preempt.STATUS
    except BrokenPipeError:
        _drop_output()
        return 1
    except OSError as error:  # a full disk under a log, a folder that cannot be read
        print(f"replicate {args.verb}: {error.filename or 'output'}: {error.strerror or error}", file=sys.stderr)
        _drop_output()
        return 2
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's; naming it would import torch
            raise
        advice = "take RECOMPUTE=1 or more GPUs" if args.verb == "pretrain" else "take one with more of it"
        print(f"replicate {args.verb}: the GPU's memory is full ({str(error).splitlines()[0]}); {advice}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        again = "" if args.verb not in commands.STAGES else "; the same command goes on from here"
        print(f"replicate {args.verb}: interrupted{again}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
