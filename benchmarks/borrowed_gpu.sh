#!/usr/bin/env bash
# A bare machine with a GPU for a quarter of an hour: what it can measure and train, in two commands
# of at most ten minutes.
#
#   here    borrowed_gpu.sh pack [PIECES RESTORE]   borrowed/: CIFAR-100 in parts, trials, wheels
#   there   borrowed_gpu.sh part 1                  keeps part 1 of the data; GPU tests, profile,
#                                                   the fastest kind of step
#   there   borrowed_gpu.sh part 2 [SECONDS]        keeps the last part, restores, trains until
#                                                   SECONDS are over (570); once more goes on
#   here    borrowed_gpu.sh collect FILE...         checks what came back, adds it to the records
#   here    borrowed_gpu.sh rehearse                all of it on this CPU, small, limits enforced
#
# A call carries the clone, borrowed/common and borrowed/partK: under 64 MiB. What is left under
# $OUT comes back: files of at most 16 MiB. PIECES is a folder of files that the command RESTORE,
# run in a folder with all of them, turns into $DATA/cifar-100-python; without them the data set of
# this machine is cut as it is, into more parts (each but the last by a `part K` of its own).
set -euo pipefail
cd "$(dirname "$0")/.."
ROOT=$PWD
BORROWED=${BORROWED:-$ROOT/borrowed}     # what travels
KEPT=${KEPT:-/tmp/borrowed}              # on the other machine, from one call to the next
OUT=${OUT:-$ROOT/borrowed/out}           # what comes back
PART_MIB=${PART_MIB:-46}                 # of 64, beside the clone, the trials and the wheels
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo "$ROOT/.venv/bin/python" || echo python3)}
# A line a trial, in the order in which they are worth having; `pack` leaves out what is finished.
ROW="experiments/table3.yaml --where backbone=resnet18 --where"
TRIALS=${TRIALS:-"$(for seed in 0 1 2; do for method in recursive_mix baseline cutmix mixup; do
  echo "$ROW method=$method --seeds $seed"; done; done)"}
MOST=${MOST:-4}                          # trials side by side
DEVICE=${DEVICE:-cuda}
TESTS=${TESTS:-"-k gpu -n6 tests/rm/test_graph.py tests/rm/test_no_waiting.py tests/rm/test_gpu.py"}
PROFILE=${PROFILE:-"--steps 28 --batch-norm-groups 2"}
FASTEST=${FASTEST:-"--steps 28 --rounds 3 --choices eager graph --any-order"}
ALSO=${ALSO:-}                           # more measurements, a line of benchmarks.fastest's each
ALSO_SECONDS=${ALSO_SECONDS:-60}         # for all of those
STEPS=${STEPS:-}                         # eager or graph: taken whatever is measured
ORDER=${ORDER---any-order}               # of sums; empty: as on any machine, 14 % slower on an H200
export PYTHONUNBUFFERED=1 PYTHONPATH=$ROOT:$KEPT/site
unset PYTHONDONTWRITEBYTECODE

say() { echo "[$(date +%H:%M:%S)] $*"; }

pack() {
  local pieces=${1:-} restore=${2:-}
  rm -rf "$BORROWED"; mkdir -p "$BORROWED/common"
  if [ -z "$pieces" ]; then
    pieces=$(mktemp -d); trap 'rm -rf "$pieces"' RETURN
    tar c -C "${RM_DATA_DIR:-$HOME/.cache/recursivemix}" cifar-100-python |
      split -b 8M - "$pieces/cifar-100.tar."
    restore='cat cifar-100.tar.* | tar x -C "$DATA"'
  fi
  printf '%s\n' "$restore" >"$BORROWED/common/restore.sh"
  # Files fill parts in their order; a file is never cut.
  local part=1 used=0 file size
  while IFS= read -r file; do
    size=$(stat -c %s "$file")
    if [ $((used + size)) -gt $((PART_MIB * 1048576)) ] && [ "$used" -gt 0 ]; then
      part=$((part + 1)) used=0
    fi
    mkdir -p "$BORROWED/part$part"
    cp "$file" "$BORROWED/part$part/"
    used=$((used + size))
  done < <(find "$pieces" -maxdepth 1 -type f | sort)
  echo "$part" >"$BORROWED/common/parts"
  if [ -n "${WHEELS:-}" ]; then cp $WHEELS "$BORROWED/common/"; fi
  local words archive count=0
  while IFS= read -r words; do
    archive=$BORROWED/common/trial$(printf %02d $count).tar.gz
    # shellcheck disable=SC2086
    "$PYTHON" launch/run.py export $words --to "$archive"
    if [ -e "$archive" ]; then count=$((count + 1)); fi
  done <<<"$TRIALS"
  if [ $count = 0 ]; then say "error: no trial is left that could be trained"; return 1; fi
  du -sm "$BORROWED"/* | sort -k 2
  say "$part parts and $count trials; carry borrowed/common and one part a call"
}

part() {
  local number=$1 seconds=${2:-570} began=$SECONDS
  mkdir -p "$KEPT/pieces" "$KEPT/site" "$OUT"
  cp "$BORROWED/part$number/"* "$KEPT/pieces/"
  if compgen -G "$BORROWED/common/*.whl" >/dev/null && [ -z "$(ls -A "$KEPT/site")" ]; then
    python3 -m pip install -q --no-index --no-deps --no-compile --root-user-action ignore \
      --target "$KEPT/site" "$BORROWED"/common/*.whl
  fi
  if [ "$DEVICE" = cuda ]; then nvidia-smi -L | tee "$OUT/device.txt"; fi
  if [ "$number" = 1 ]; then measure; fi
  if [ "$number" -lt "$(cat "$BORROWED/common/parts")" ]; then
    say "part $number is kept in $KEPT; send the next one at once"
    return
  fi
  export DATA=$KEPT/data RM_DATA_DIR=$KEPT/data
  mkdir -p "$DATA"
  if [ ! -s "$DATA/cifar-100-python/train" ]; then
    (cd "$KEPT/pieces" && PYTHON=$PYTHON bash -euo pipefail "$BORROWED/common/restore.sh") |
      tail -n 3
  fi
  if [ ! -s "$DATA/cifar-100-python/train" ]; then
    say "error: the restored data set has no cifar-100-python/train"
    return 1
  fi
  say "data restored after $((SECONDS - began)) s"
  train $((seconds - (SECONDS - began)))
  say "back: $(ls -s -h "$OUT" | tr '\n' ' ')"
}

# What needs no more data than the digits that scikit-learn has.
measure() {
  # shellcheck disable=SC2086
  timeout 100 "$PYTHON" -m pytest -q -p no:cacheprovider $TESTS 2>&1 | tee "$OUT/tests.txt" || true
  if [ "$PROFILE" != none ]; then
    # shellcheck disable=SC2086
    timeout 60 "$PYTHON" -m benchmarks.profile_step $PROFILE --digits 2>&1 |
      tee "$OUT/profile.txt" || true
  fi
  # shellcheck disable=SC2086
  timeout 90 "$PYTHON" -m benchmarks.fastest $FASTEST --digits --device "$DEVICE" 2>&1 |
    tee "$OUT/fastest.txt" || true
  cp "$OUT/fastest.txt" "$KEPT/"
  local end=$((SECONDS + ALSO_SECONDS)) words
  while IFS= read -r words; do
    if [ -z "$words" ] || [ $((end - SECONDS)) -lt 10 ]; then continue; fi
    # shellcheck disable=SC2086
    timeout $((end - SECONDS)) "$PYTHON" -m benchmarks.fastest $words --digits \
      --device "$DEVICE" 2>&1 | tee -a "$OUT/also.txt" || true
  done <<<"$ALSO"
}

# The trials that end side by side, in the fastest kind of step that has the bits of eager ones. A
# later call resumes what an earlier one left.
train() {
  local steps=${STEPS:-$(sed -n 's/^taken: //p' "$KEPT/fastest.txt")} pace archive folder
  mkdir -p "$KEPT/work"
  for archive in "$BORROWED"/common/trial*.tar.gz; do
    tar xf "$archive" -C "$KEPT/work" --one-top-level="$(basename "$archive" .tar.gz)"
  done
  if [ "$steps" = graph ]; then "$PYTHON" -m benchmarks.fastest --apply "$KEPT/work" $ORDER; fi
  # `graph   3.1 ms a step   41,000 images/s`
  pace=$(awk -v steps="$steps" '$1 == steps && $7 == "images/s" { gsub(",", "", $6); print $6 }' \
    "$KEPT/fastest.txt")
  "$PYTHON" -m benchmarks.in_time "$KEPT"/work/*/ --seconds "$1" --out "$OUT" --most "$MOST" \
    ${pace:+--images-per-second "$pace"} --device "$DEVICE" 2>&1 | tee "$OUT/training.txt" || true
  local file
  for file in "$OUT"/*/records.tar.gz; do
    if [ -e "$file" ]; then mv "$file" "$OUT/$(basename "$(dirname "$file")").records.tar.gz"; fi
  done
  find "$OUT" -mindepth 1 -type d -empty -delete
}

collect() {
  "$PYTHON" launch/run.py import "$@"
  "$PYTHON" -m analysis.reproduced
}

# What a machine's owner enforces: 64 MiB there, 10 minutes a command, files of 16 MiB back.
rehearse() {
  local folder; folder=$(mktemp -d)
  export BORROWED=$folder/borrowed KEPT=$folder/there OUT=$folder/out RM_RESULTS_DIR=$folder/results
  export DEVICE=cpu CUDA_VISIBLE_DEVICES="" MOST=2 TESTS=tests/rm/test_ops.py STEPS=graph
  export TRIALS="$ROW method=recursive_mix --profile smoke
$ROW method=baseline --profile smoke"
  export PROFILE="--backbone resnet8 --batch 16 --steps 1 --precision fp32"
  export FASTEST="--backbone resnet8 --batch 16 --steps 3 --rounds 1 --choices eager graph"
  local self=$ROOT/benchmarks/borrowed_gpu.sh number
  "$self" pack "$@"
  for number in $(seq "$(cat "$BORROWED/common/parts")"); do
    local sent
    sent=$({ git ls-files -z; find "$BORROWED/common" "$BORROWED/part$number" -type f -print0; } |
      du -cm --files0-from=- | tail -n 1 | cut -f 1)
    [ "$sent" -le 64 ] || { say "error: $sent MiB for part $number; at most 64"; return 1; }
    timeout 600 "$self" part "$number" "${REHEARSAL_SECONDS:-570}"
  done
  local large
  large=$(find "$OUT" -type f -size +16M)
  [ -z "$large" ] || { say "error: larger than 16 MiB: $large"; return 1; }
  "$self" collect "$OUT"/*.records.tar.gz
  say "rehearsed: $(ls "$OUT" | tr '\n' ' ')"
  rm -rf "$folder"
}

{ # read to its end before it runs
  case ${1:-} in
    pack | part | collect | rehearse) "$@" ;;
    *) sed -n '2,16s/^# \{0,1\}//p' "$0"; exit 2 ;;
  esac
  exit
}
