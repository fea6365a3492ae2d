#!/bin/sh
# Everything that a board or a CUDA machine can say of kinedge, into one folder, with a page to read. Run it again after
# a cut: what is there of this commit is not measured again.
#
#     sh benchmarks/on_a_board.sh FOLDER [BUNDLE]
#
# KINEDGE is the command (kinedge), SHORT=1 makes a trial of a few minutes whose figures mean nothing.
set -eu
folder=${1:?usage: sh benchmarks/on_a_board.sh FOLDER [BUNDLE]}
bundle=${2:-}
kinedge=${KINEDGE:-kinedge}
export OMP_NUM_THREADS=1
mkdir -p "$folder"

run() { # NAME ARGUMENTS...: one result, unless it is there; a status of 3 says that some rows were not run
    name=$1
    shift
    if [ -s "$folder/$name.json" ]; then
        echo "$name: there already"
        return
    fi
    echo "$name: kinedge bench $*"
    status=0
    $kinedge bench "$@" --out "$folder/$name.json" --json >"$folder/$name.log" 2>&1 || status=$?
    case $status in
        0) ;;
        3) echo "$name: some rows were not run; the page says why" ;;
        *) echo "$name: failed ($status), see $folder/$name.log" ;;
    esac
}

if [ -n "${SHORT:-}" ]; then
    gpu="--rounds 3 --round-s 0.005 --streams 1"
    step="--streams 1 --rounds 3 --round-s 0.005"
    stages="--people 1 --seconds 12 --live-seconds 5 --backends native,onnx,tensorrt"
    crowd="--people 10 --parameters 3000 --seconds 1 --chunk 25 --memory-people 4"
else
    gpu="--streams 1,16,64,256"
    step="--streams 1,16,64,256"
    stages="--people 16 --seconds 60 --live-seconds 60 --backends native,onnx,tensorrt"
    crowd="--people 100,250,500,1000 --chunk 25 --seconds 4"
fi
# shellcheck disable=SC2086
{
    run gpu_check gpu $gpu ${bundle:+--bundle "$bundle"}
    run step step $step ${bundle:+--bundle "$bundle"}
    run stages stages $stages
    run throughput throughput $crowd
    run decode decode
}
$kinedge bench report "$folder" --title "kinedge on $(uname -m)" --out "$folder/report.html"
echo "read $folder/report.html"
