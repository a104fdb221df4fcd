#!/usr/bin/env bash
# Checks the built wheel as its users meet it: in an environment of its own and
# from an empty folder, with mim and with configs by name and by path.
#
#   .dev/check_wheel.sh STACK_FILE VENV_DIR
#
# Networks are trained for a few iterations only: that everything is found and
# fits together is what counts.
set -euo pipefail
cd "$(dirname "$0")/.."

stack=$1
venv=$2
checks=$PWD/.dev/check_wheel.py
digits=$PWD/tools/analysis_tools/digits.py

# The clone's package must not stand in for the wheel's.
unset PYTHONPATH
.dev/setup_env.sh "$stack" "$venv" wheel
PATH=$PWD/$venv/bin:$PATH

folder=$(mktemp -d)
log=$folder.log
# In a clone that is installed editable, onedl-mim searches all folders for a
# config's name, environments too, and would find each twice.
trap 'python -m pip uninstall -q -y mmcdnv2; rm -rf "$folder" "$log"' EXIT
cd "$folder"

# Usage: check passes|fails PATTERN COMMAND...
# Stops unless the command ends as stated and prints the pattern; shows the line.
check() {
    local status=passes line
    printf '$ %s\n' "${*:3}"
    "${@:3}" >"$log" 2>&1 || status=fails
    if [ "$status" != "$1" ] || ! line=$(grep -E -- "$2" "$log" | tail -n 1); then
        tail -n 40 "$log" >&2
        printf 'The command %s, but it was expected that it %s and prints "%s".\n' \
            "$status" "$1" "$2" >&2
        exit 1
    fi
    printf '    %s\n' "${line##*- INFO - }"
}

expect_files() {
    local file
    for file in "$@"; do
        if [ ! -s "$file" ]; then
            echo "The file $file was expected." >&2
            exit 1
        fi
    done
}

demo=work_dirs/demo
# The laboratory makes the data; the wheel does without it.
check fails 'needs the folder lab/' mim run mmcdnv2 digits $demo/data
python "$digits" $demo/data --num-train 6 --num-val 3 --num-classification 30

for model in classifier:cdnv2_a_digits:4:accuracy/top1 \
    detector:faster_rcnn_cdnv2_a_fpn_digits:2:coco/bbox_mAP; do
    IFS=: read -r kind name epochs metric <<<"$model"
    work_dir=$demo/$kind
    checkpoint=$work_dir/epoch_$epochs.pth
    # The checkpoint of the sparsified classifier is the detector's backbone.
    check passes "$metric: " mim train mmcdnv2 "$name.py" --work-dir "$work_dir"
    expect_files "$checkpoint"
    check passes "$metric: " mim test mmcdnv2 "$name.py" --checkpoint "$checkpoint"
    check passes 'Runs on native kernels' \
        mim run mmcdnv2 condense "$work_dir/$name.py" "$checkpoint" condensed \
        --input-shape 192 192
    condensed=condensed/${name}_condensed
    expect_files "$condensed.py" "$condensed.pth"
    check passes "$metric: " \
        mim test mmcdnv2 "$condensed.py" --checkpoint "$condensed.pth"
    check passes '000001.png' mim run mmcdnv2 predict $demo/data/val/000001.png \
        "$condensed.py" "$condensed.pth" --out "predictions/$kind"
    expect_files "predictions/$kind/000001.png" "predictions/$kind/predictions.json"
    check passes 'equal predictions' python "$checks" "$kind" "$name.py" \
        "$checkpoint" "$condensed.py" "$condensed.pth" $demo/data/val/000001.png
done

check fails '^error: train_dataloader expects its data in data/coco/' \
    mim train mmcdnv2 faster_rcnn_cdnv2_c_fpn_1x_coco.py
check passes '^CondenseNetV2' python -c "import mmcdnv2, mmpretrain
print(type(mmpretrain.get_model('cdnv2_a_8xb128_in1k').backbone).__name__)"
check passes 'config id: cdnv2_a_8xb128_in1k' \
    mim search mmcdnv2 --model condensenetv2

echo "The wheel works with $(basename "$stack")."
