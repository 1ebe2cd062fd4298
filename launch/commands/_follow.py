"""`--follow`: what shall follow the journals beside MLflow."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from launch.console import counted, say
from launch.errors import UsageError
from launch.tracking.follow import cannot, follow
from launch.tracking.followers import NAMES, Follower, load


def add_followers(parser: argparse.ArgumentParser) -> None:
    """The argument that names them."""
    parser.add_argument(
        "--follow",
        action="append",
        metavar="NAME[=WHERE]",
        help=f"show runs elsewhere too, as they train: {', '.join(NAMES)}=https://…; may be "
        "repeated (default: $RM_FOLLOW, names with spaces between)",
    )


def followers_of(args: argparse.Namespace) -> list[Follower]:
    """Those asked for, ready to work; UsageError for what is none, or is not installed."""
    asked = args.follow if args.follow is not None else os.environ.get("RM_FOLLOW", "").split()
    found = [load(each) for each in asked]
    for number, each in enumerate(found):
        if any(each.name == earlier.name for earlier in found[:number]):
            raise UsageError(f"--follow {each.name} is asked for twice")
    return found


def catch_up(followers: Sequence[Follower], run_dirs: Sequence[Path]) -> int:
    """Let each follower come to the journals' ends now; exit status 1 where one cannot."""
    status = 0
    for follower in followers:
        try:
            count = follow(follower, run_dirs, lambda: False)
            say(f"{follower.name}: {counted(count, 'run')} had something new")
        except Exception as error:  # whatever a library, a server or a disk brings
            say(cannot(follower, error))
            status = 1
        finally:
            follower.close()
    return status
