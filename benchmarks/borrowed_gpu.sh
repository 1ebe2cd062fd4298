#!/usr/bin/env bash
# A bare machine with a GPU for a quarter of an hour: what it can measure and train, in two commands
# of at most ten minutes.
#
#   here    borrowed_gpu.sh pack [PIECES RESTORE]   borrowed/: CIFAR-100 in parts, trials, wheels
#   there   borrowed_gpu.sh part 1                  keeps part 1 of the data, runs the GPU tests
#   there   borrowed_gpu.sh part 2 [SECONDS]        keeps the last part, restores, profiles, trains
#                                                   until SECONDS are over (540)
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
# In the order in which they are worth having; `pack` leaves out what is finished.
SPECS=${SPECS:-"experiments/table3.yaml --where backbone=resnet18"}
SEEDS=${SEEDS:-"0 1 2"}
EPOCHS=${EPOCHS:-200}                    # of each trial: how many side by side end in time?
DEVICE=${DEVICE:-cuda}
TESTS=${TESTS:-"tests/rm/test_graph.py tests/rm/test_no_waiting.py tests/rm/test_trajectory.py"}
PROFILE=${PROFILE:-"--steps 30"}
FASTEST=${FASTEST:-"--steps 30 --rounds 3"}
STEPS=${STEPS:-}                         # eager or graph: taken whatever is measured
SIDE=${SIDE:-"--most 4 --seconds 4 --minutes 0.5"}
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
  local seed words=()
  for seed in $SEEDS; do
    # shellcheck disable=SC2086
    "$PYTHON" launch/run.py export $SPECS --seeds "$seed" --to "$BORROWED/common/seed$seed.tar.gz"
    if [ -e "$BORROWED/common/seed$seed.tar.gz" ]; then words+=("$seed"); fi
  done
  if [ ${#words[@]} = 0 ]; then say "error: no trial is left that could be trained"; return 1; fi
  du -sm "$BORROWED"/* | sort -k 2
  say "$part parts; trials of seeds ${words[*]}; carry borrowed/common and one part a call"
}

part() {
  local number=$1 seconds=${2:-540} began=$SECONDS
  mkdir -p "$KEPT/pieces" "$KEPT/site" "$OUT"
  cp "$BORROWED/part$number/"* "$KEPT/pieces/"
  if compgen -G "$BORROWED/common/*.whl" >/dev/null && [ -z "$(ls -A "$KEPT/site")" ]; then
    python3 -m pip install -q --no-index --no-deps --no-compile --root-user-action ignore \
      --target "$KEPT/site" "$BORROWED"/common/*.whl
  fi
  if [ "$DEVICE" = cuda ]; then nvidia-smi -L | tee "$OUT/device.txt"; fi
  if [ "$number" -lt "$(cat "$BORROWED/common/parts")" ]; then
    if [ "$number" = 1 ]; then
      # shellcheck disable=SC2086
      timeout 75 "$PYTHON" -m pytest -q -p no:cacheprovider $TESTS 2>&1 |
        tee "$OUT/tests.txt" || true
    fi
    say "part $number is kept in $KEPT; send the next one at once"
    return
  fi
  export DATA=$KEPT/data RM_DATA_DIR=$KEPT/data
  mkdir -p "$DATA"
  (cd "$KEPT/pieces" && PYTHON=$PYTHON bash -euo pipefail "$BORROWED/common/restore.sh") | tail -n 3
  if [ ! -s "$DATA/cifar-100-python/train" ]; then
    say "error: the restored data set has no cifar-100-python/train"
    return 1
  fi
  say "data restored after $((SECONDS - began)) s"
  # shellcheck disable=SC2086
  timeout 45 "$PYTHON" -m benchmarks.profile_step $PROFILE 2>&1 | tee "$OUT/profile.txt" || true
  # shellcheck disable=SC2086
  timeout 75 "$PYTHON" -m benchmarks.fastest $FASTEST --device "$DEVICE" 2>&1 |
    tee "$OUT/fastest.txt" || true
  local steps=${STEPS:-$(sed -n 's/^taken: //p' "$OUT/fastest.txt")} graph=
  if [ "$steps" = graph ]; then graph=--cuda-graph; fi
  # shellcheck disable=SC2086
  timeout 60 "$PYTHON" -m benchmarks.side_by_side $SIDE $graph --device "$DEVICE" 2>&1 |
    tee "$OUT/side_by_side.txt" || true
  local left=$((seconds - (SECONDS - began) - 30)) together
  together=$(most_that_end_in_time "$left")
  say "trains $together side by side for $left s"
  mkdir -p "$KEPT/work"
  local archive
  for archive in "$BORROWED"/common/seed*.tar.gz; do
    tar xf "$archive" -C "$KEPT/work" --one-top-level="$(basename "$archive" .tar.gz)"
  done
  if [ "$steps" = graph ]; then "$PYTHON" -m benchmarks.fastest --apply "$KEPT/work"; fi
  train "$left" "$together"
  say "back: $(ls -s -h "$OUT" | tr '\n' ' ')"
}

# The largest number of trials side by side that all end within so many seconds, as side_by_side
# measured; 1 where none does.
most_that_end_in_time() {
  awk -v left="$1" -v epochs="$EPOCHS" '
    / side by side: / {
      for (i = 1; i <= NF; i++)
        if ($i == "s" && $(i + 1) == "an" && $(i - 1) * epochs <= left * 0.95)
          if ($1 > best) best = $1
    }
    END { print best ? best : 1 }' "$OUT/side_by_side.txt" 2>/dev/null
}

# Seed after seed, until the time is over; records are packed whatever became of the trials.
train() {
  local end=$((SECONDS + $1)) together=$2 folder status minutes
  local -a width
  width=(--workers "$together")
  if [ "$DEVICE" = cuda ]; then width=(--trials-per-gpu "$together"); fi
  for folder in "$KEPT"/work/*/; do
    [ $((end - SECONDS)) -gt 45 ] || break
    minutes=$(awk -v s=$((end - SECONDS)) 'BEGIN { printf "%.2f", s / 60 }')
    status=0
    (cd "$(dirname "$(find "$folder" -maxdepth 3 -name launch -type d | head -n 1)")" &&
      "$PYTHON" -P -m launch.backends.local . --deadline "$minutes" "${width[@]}" \
        --out "$OUT/$(basename "$folder")") || status=$?
    say "$(basename "$folder"): exit status $status"
  done
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
  export DEVICE=cpu CUDA_VISIBLE_DEVICES="" EPOCHS=1 SEEDS="${SEEDS%% *}"
  export SPECS="experiments/table3.yaml --profile smoke --where backbone=resnet18"
  export SIDE="--least 1 --most 1 --seconds 1 --limit 256 --backbone resnet8 --minutes 1"
  export PROFILE="--backbone resnet8 --batch 16 --steps 1" TESTS=tests/rm/test_ops.py
  export FASTEST="--backbone resnet8 --batch 16 --steps 3 --rounds 1 --choices eager graph"
  export STEPS=graph
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
