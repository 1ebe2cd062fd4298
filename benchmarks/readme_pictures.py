"""Makes the pictures of the README: `make readme-pictures`.

results/report.png    the page of the reduced study, from its committed records
results/samples.png   what each method shows the network, measured on CIFAR-10 (a minute)

The first needs Chromium, the second CIFAR-10 in $RM_DATA_DIR. Both are made in a results folder of
their own, so that nothing of this machine's runs gets into them.
"""

import asyncio
import base64
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from launch.paths import ROOT
from tests.support.analysis import browser as chromium

WIDTH = 1100
STUDY, SAMPLES = "cifar10_small", "samples"


def main() -> int:
    if chromium.PROGRAM is None:
        print("error: needs chromium (apt-get install chromium)", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="rm-pictures-") as folder:
        results = Path(folder) / "results"
        report(results, STUDY)
        page = results / "report" / f"{STUDY}.html"
        picture = asyncio.run(photograph(page, Path(folder) / "profile"))
        write(ROOT / "results" / "report.png", picture)
        command(results, "launch/run.py", f"experiments/{SAMPLES}.yaml")
        report(results, SAMPLES)
        drawn = results / "report" / SAMPLES / f"{SAMPLES}.png"
        write(ROOT / "results" / "samples.png", drawn.read_bytes())
    return 0


def report(results: Path, name: str) -> None:
    command(results, "analysis/report.py", f"experiments/{name}.yaml")


def command(results: Path, *words: str) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    environment |= {"RM_RESULTS_DIR": str(results), "RM_TRACKING": "on"}
    subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, check=True)


async def photograph(page: Path, profile: Path) -> bytes:
    """The page down to the end of its table and claims, in the light theme; nothing is cut off."""
    async with chromium.browser(profile) as tab:
        size = {"width": WIDTH, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
        await tab.ask("Emulation.setDeviceMetricsOverride", **size)
        await tab.open(page, "#theme=light")
        await tab.run("document.querySelector('.tools').remove()")
        height = await tab.run(
            "Math.max(...[...document.querySelectorAll('.spec > section')].slice(0, 2)"
            ".map(each => each.getBoundingClientRect().bottom + scrollY))"
        )
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": height + 24, "scale": 1}
        shot = await tab.ask("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        return base64.b64decode(shot["data"])


def write(path: Path, picture: bytes) -> None:
    path.write_bytes(picture)
    print(f"wrote {path.relative_to(ROOT)} ({len(picture) // 1024} KiB)")


if __name__ == "__main__":
    sys.exit(main())
