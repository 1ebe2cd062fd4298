"""`evaluate`: what somebody's weights of a detector or a segmentation network are worth, without a
trial; in a process of its own, as it imports torch.
"""

import argparse
import subprocess
import sys

from launch.interpreter import child_environment, module_command

HELP = "evaluate weights of a detector or segmentation network on COCO or ADE20K"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", choices=("detection", "segmentation"), required=True)
    parser.add_argument("--head", required=True, metavar="NAME", help="a file of rm/dense/heads")
    parser.add_argument("--backbone", metavar="NAME", help="default: imagenet_resnet50")
    parser.add_argument(
        "--weights", required=True, metavar="FILE", help="weights.pt, or mmdet's or mmseg's"
    )
    parser.add_argument(
        "--data", metavar="FOLDER", help="with val2017 and annotations (default: in $RM_DATA_DIR)"
    )
    parser.add_argument("--pictures", metavar="N", help="only so many (default: all)")
    parser.add_argument("--device", help="cuda, cuda:1, cpu (default: a GPU if there is one)")
    parser.add_argument(
        "--set",
        action="append",
        metavar="SECTION.OPTION=VALUE",
        help="an option, such as backbone.output_stride=8 (PSPNet) or head.semantic=true (HTC)",
    )


def run(args: argparse.Namespace) -> int:
    """The metrics as a line of JSON; exit status 2 for bad input."""
    words: list[str] = []
    for name in ("task", "head", "backbone", "weights", "data", "pictures", "device", "set"):
        value = getattr(args, name)
        for each in value if isinstance(value, list) else [value]:
            words += [] if each is None else [f"--{name}", each]
    sys.stdout.flush()
    done = subprocess.run(
        module_command("rm.evaluate", *words), env=child_environment(), check=False
    )
    return done.returncode
