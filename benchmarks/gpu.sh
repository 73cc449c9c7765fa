#!/usr/bin/env bash
# What needs a GPU, in ten minutes at most; what is not on the machine is not fetched.
#
#     benchmarks/gpu.sh [--tiny] [--skip STEP]... [--only STEP]... [--wheels FOLDER] [DATA]
#
# Steps, in this order:
#   tests    those marked gpu
#   train    images a second against the bare loop: ResNet-50, ViT-S     benchmarks/bench_device.py
#   predict  the same of prediction, from JPEGs to boxes
#   places   boxes and CRF beside the network
#   crops    CAM, HnS and GR of table 1 of Choe et al. on DATA, a folder of Tiny ImageNet or a tar
#            of one, ResNet-18: is top_1_loc GR > HnS > CAM? Without DATA it is passed over
# A step whose result lies in build/gpu is passed over, and crops goes on where it was stopped: the
# same command again ends what a limit cut off. What to keep is copied to $OUT, where that is set.
# --wheels installs packages that are missing, for this script alone, from files. --tiny tries the
# script out, also without a GPU, into build/gpu-tiny.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

work=build/gpu tiny= skipped=" " only=" " wheels= data=
while [ $# -gt 0 ]; do
    case $1 in
    --tiny) tiny=--tiny work=build/gpu-tiny ;;
    --skip) skipped+="$2 " && shift ;;
    --only) only+="$2 " && shift ;;
    --wheels) wheels=$2 && shift ;;
    -*) sed -n '2,19s/^# \{0,1\}//p' "$0" && exit 2 ;;
    *) data=$1 ;;
    esac
    shift
done
mkdir -p "$work" || exit
scratch=$(mktemp -d) && trap 'rm -rf "$scratch"' EXIT
export PYTHONPATH=src:.${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
python=${PYTHON:-python3}
if [ -n "$wheels" ]; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --target "$scratch" "$wheels"/*.whl || exit
    export PYTHONPATH=$PYTHONPATH:$scratch
fi
"$python" -c "
import sys, torch
name = torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU'
print('Python', sys.version.split()[0], 'torch', torch.__version__, name)" || exit

failed=
step() { # NAME SECONDS RESULT COMMAND...
    local name=$1 limit=$2 result=$work/$3 log=$work/$1.log began=$SECONDS
    shift 3
    case $skipped in *" $name "*) echo "$name: skipped" && return ;; esac
    if [ "$only" != " " ] && [[ $only != *" $name "* ]]; then return; fi
    if [ -e "$result" ]; then echo "$name: done before" && return; fi
    [ -z "$tiny" ] || limit=600 # a processor may be slow
    if timeout --kill-after 10 "$limit" "$@" >"$log" 2>&1; then
        [ -e "$result" ] || cp "$log" "$result"
        echo "$name: done in $((SECONDS - began)) s"
        [ ! -e "${result%.json}.md" ] || head -n 60 "${result%.json}.md"
    else
        echo "$name: failed, or stopped after its $limit s; the end of $log:"
        tail -n 8 "$log"
        failed=1
    fi
}

bench=("$python" -m benchmarks.bench_device --results "$work" $tiny)
step tests 60 tests.txt "$python" -m pytest -q -n 0 -p no:cacheprovider -m gpu $(grep -rl "mark.gpu" tests)
step train 120 device_train.json "${bench[@]}" train
step predict 90 device_predict.json "${bench[@]}" predict
step places 45 device_places.json "${bench[@]}" places
if [ -n "$data" ]; then
    if [ -f "$data" ]; then
        [ -d "$work/data" ] || { mkdir "$work/data" && tar -xf "$data" -C "$work/data" --strip-components 1; } || exit
        data=$work/data
    fi
    crops=("$python" -m weakloc.cli reproduce cam-augmentation --data "$data" --out "$work/crops" --seeds 1)
    for name in CAM HnS GR; do crops+=(--cell "$name, smaller net"); done
    if [ -n "$tiny" ]; then
        crops+=(--budget quick --epochs 1 --image-size 32 --jobs 1)
    else
        crops+=(--budget paper60 --precision bf16 --jobs 3)
    fi
    step crops 270 crops/results.json "${crops[@]}"
fi
if [ -n "${OUT:-}" ]; then
    cp "$work"/device_* "$OUT" 2>/dev/null
    cp "$work/crops/results.json" "$OUT/crops.json" 2>/dev/null
    tail -n 1000 "$work"/*.log >"$OUT/logs.txt"
fi
exit ${failed:-0}
