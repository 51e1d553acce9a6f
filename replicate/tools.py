"""What the verbs do that work on what is the user's own, or drive the stages; each returns an exit status.

They use all cores. Imports wait until they are needed: torch takes two seconds.
"""

import sys

from replicate import asked, paths
from replicate.errors import UserError


def data(args) -> int:
    """An action on real sets; the status is 2 where one is not whole."""
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
        asked.check_count("jobs", jobs)
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


def rank(args) -> int:
    """RankMe of the user's files; the status is 2 where one could not be ranked."""
    from replicate.rank import files, report

    report.check_plot(args.plot)
    drop = tuple(name.strip() for name in args.drop.split(",")) if args.drop is not None else ()
    ranked, refused = [], []
    for path in args.files:
        with asked.refusals("rank", refused):
            one = report.rank(files.open_matrix(path, args.key, drop), args.all, args.precision, args.stderr)
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
    return 2 if refused else 0


def select(args) -> int:
    """A choice from the user's table; the status is 2 where there is none."""
    from replicate import choose

    table = choose.read(args.table)
    names = [name.strip() for name in args.by.split(",") if name.strip()]
    rows, remarks = choose.choose(table, names, args.value, args.accuracy, args.noise)
    choose.show(rows, remarks, args.json, args.csv)
    return 0 if rows else 2


def verify(args) -> int:
    """Recompute a sample; the status is 2 where it differs from the cached rows."""
    import signal

    from replicate import profile, verify

    for stop in verify.STOPS:
        if signal.getsignal(stop) != signal.SIG_IGN:  # as under nohup
            signal.signal(stop, signal.default_int_handler)  # what is being recomputed ends, and its folder goes
    loaded, seeds = profile.load(args.profile), asked.seeds_of(args.seeds)
    if len(seeds) > 1:
        raise UserError(f"--seeds is {args.seeds!r}: one seed at a time is verified")
    asked.check_count("jobs", args.jobs)
    if args.engine not in (None, loaded.engine):
        raise UserError(f"--engine is {args.engine}: only rows of the profile's engine, {loaded.engine}, are verified")
    outcome = verify.verify(loaded, args.profile, args.runs, seeds[0], asked.names_of(args, loaded), args.draw, args.jobs,
                            args.device)
    return 2 if outcome == "differs" else 0


TOOLS = {"rank": rank, "select": select, "data": data, "verify": verify}
