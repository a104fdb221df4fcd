#!/usr/bin/env bash
# Creates a virtual environment with a pinned stack and this package, editable
# and with all that its tests and the demo need.
#
#   .dev/setup_env.sh STACK_FILE VENV_DIR [wheel]
#
# STACK_FILE pins torch, torchvision and the OpenMMLab packages (see
# requirements/stacks). A second call with nothing changed returns at once.
#
# PYTHON=COMMAND chooses the Python. Without it an environment keeps the one that it
# has; a new one gets the first to be had of those in STACK_FILE's "# Python:" line.
#
# With "wheel" the package is built and installed as its users get it: beside
# the stack there is only what the wheel itself (and its extra "demo") asks for.
# The wheel is built anew on every call.
# -E: the trap below must also see what fails inside functions.
set -Eeuo pipefail
cd "$(dirname "$0")/.."

stack=$1
venv=$2
form=${3:-editable}
log=$venv/setup.log
stamp=$venv/setup.stamp
py=$venv/bin/python
step='start'
began=$SECONDS

fail() {
    local status=$?
    printf '\nset-up failed in step "%s" (exit status %s).\n' "$step" "$status" >&2
    if [ -s "$log" ]; then
        printf 'The last lines of %s:\n' "$log" >&2
        tail -n 30 "$log" >&2
    fi
    exit "$status"
}
trap fail ERR

say() {
    step=$1
    printf '[set-up %3ds] %s\n' "$((SECONDS - began))" "$step"
}

# pip's own output goes to the log; what moves is shown, so that a wait of
# minutes is not a silent one.
run() {
    "$@" 2>&1 | tee "$log" | while IFS= read -r line; do
        # All of a few, each fifth of many.
        if [[ $line =~ ^\ *(\[([0-9]/[0-9]|[0-9]*[05]/[0-9]+)\]) ]]; then
            printf '    compiled %s\n' "${BASH_REMATCH[1]}"
        elif [[ $line =~ ^(Collecting|Downloading|Building|Successfully|Installing) ]]; then
            printf '    %.100s\n' "$line"
        fi
    done
}

# Without --no-compile pip compiles all modules to bytecode, most of which are never
# imported; Python compiles the others at their first import.
install() {
    run "$py" -m pip install --no-compile "$@"
}

fingerprint() {
    { printf '%s\n' "$PWD" "$form"; cat .dev/setup_env.sh \
        .dev/join_mmcv_sources.py setup.py "$stack" requirements/build.txt \
        requirements/demo.txt requirements/export.txt requirements/runtime.txt \
        requirements/tests.txt; } | cksum
}

# The uninstallation makes pip take a wheel of the version that is there already.
install_wheel() {
    say 'build the wheel of mmcdnv2 and install it'
    rm -rf "$venv/wheel"
    run "$py" -m pip wheel --no-deps -w "$venv/wheel" .
    rm -rf build
    run "$py" -m pip uninstall -y mmcdnv2
    install "$(compgen -G "$venv/wheel/mmcdnv2-*.whl")[demo]" -r "$stack"
}

mmcv_wheel() {
    MMCV_WITH_OPS=1 MAX_JOBS=$(nproc) run "$py" -m pip wheel -v --no-cache-dir \
        --no-build-isolation --no-deps -w "$build" "$@"
}

# Python asks for debugging information, a third of the time. CPPFLAGS take it back;
# CFLAGS would replace the optimization, too.
joined_wheel() {
    local source
    run "$py" -m pip download --no-build-isolation --no-deps -d "$build" \
        --no-binary :all: "$mmcv" &&
        source=$("$py" .dev/join_mmcv_sources.py "$build"/*.tar.gz "$build" 2>"$log") &&
        CPPFLAGS="${CPPFLAGS:-} -g0" mmcv_wheel "$source"
}

version_of() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true
}

has_wanted_python() {
    [ -z "${PYTHON:-}" ] || [ "$(version_of "$PYTHON")" = "$(version_of "$py")" ]
}

if [ -x "$py" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$(fingerprint)" ] &&
    has_wanted_python; then
    if [ "$form" = wheel ]; then
        install_wheel
    fi
    exit 0
fi

supported=$(sed -n 's/^# Python: //p' "$stack")
say "look for Python ${supported// /, }"
# An environment that was copied or whose Python is gone is of no use.
if ! "$py" -c "import os, sys, pip; sys.exit(
        os.path.realpath(sys.prefix) != os.path.realpath('$venv'))" 2>/dev/null; then
    rm -rf "$venv"
fi
if [ -n "${PYTHON:-}" ]; then
    candidates=("$PYTHON")
else
    candidates=("$py" $(printf 'python%s ' $supported) python3)
fi
fits=
for python in "${candidates[@]}"; do
    version=$(version_of "$python")
    if [[ -n $version && " $supported " == *" $version "* ]]; then
        fits=yes
        break
    fi
done
if [ -z "$fits" ]; then
    echo "$stack needs Python ${supported// /, }, but found: ${version:-none}. Install one of them or set PYTHON=/path/to/python${supported%% *}." >&2
    exit 1
fi

if [ "$(version_of "$py")" != "$version" ]; then
    say "create $venv with Python $version"
    rm -rf "$venv"
    "$python" -m venv "$venv"
fi
rm -f "$stamp"

say 'install torch and torchvision (some GB the first time)'
install --upgrade pip
install -c "$stack" -r requirements/build.txt $(grep -E \
    '^(torch|torchvision|setuptools|numpy|(onedl-)?mmengine)\b' "$stack")

requirements=(-r "$stack")
if [ "$form" = editable ]; then
    requirements+=(-r requirements/demo.txt -r requirements/export.txt
        -r requirements/runtime.txt -r requirements/tests.txt)
fi

# They need no more than that. It runs beside what follows, which takes longer; if
# it fails, the last step says so. It may outlive this script without harm.
if [ "$form" = editable ]; then
    "$py" -I - >"$venv/kernels.log" 2>&1 <<'PY' &
# mmcdnv2 itself cannot be imported yet.
import sys
from types import ModuleType
sys.modules['ops'] = ops = ModuleType('ops')
ops.__path__ = ['mmcdnv2/ops']
from ops.build import build
print(build())
PY
fi

# A wheel of mmcv fits one Python, which its file name shows, one torch and the CPU or
# one kind of GPU, which the folder's name shows. CUDA needs a GPU and the toolkit.
built_for=$("$py" - <<'PY'
import torch
from torch.utils.cpp_extension import CUDA_HOME
device = 'cpu'
if torch.cuda.is_available() and CUDA_HOME:
    device = f'cu{torch.version.cuda}-sm%d%d' % torch.cuda.get_device_capability()
print(f"torch-{torch.__version__.split('+')[0]}-{device}")
PY
)
wheels=${XDG_CACHE_HOME:-$HOME/.cache}/mmcdnv2/wheels/$built_for
mmcv=$(grep -oE '^(onedl-)?mmcv==\S+' "$stack")
wheel_glob="$wheels/$(echo "${mmcv%%==*}" | tr - _)-${mmcv##*==}-cp${version/./}-*.whl"
if ! compgen -G "$wheel_glob" >/dev/null; then
    mkdir -p "$wheels"
    build=$(mktemp -d "$wheels/build.XXXXXX")
    # The other packages do not need mmcv, so they are installed while it compiles.
    "$py" -m pip install --no-compile $(grep -vE '^(#|(onedl-)?mmcv==)' "$stack") \
        "${requirements[@]:2}" >"$venv/packages.log" 2>&1 &
    packages=$!
    trap 'kill "$packages" 2>/dev/null || true; rm -rf "$build"' EXIT
    if [[ $built_for == *-cpu ]]; then
        export CUDA_VISIBLE_DEVICES=
        say "build $mmcv with its operators (about 2 minutes of processor time, once)"
        joined_wheel || {
            cp "$log" "$venv/joined.log"
            echo "    $mmcv does not build from joined sources ($venv/joined.log says why); its own build follows."
        }
    fi
    if ! compgen -G "$build/*.whl" >/dev/null; then
        say "build $mmcv by its own build (11 to 15 minutes on 2 cores, once)"
        mmcv_wheel --no-binary :all: "$mmcv"
    fi
    mv "$build"/*.whl "$wheels"/

    say 'wait for the packages that are installed beside that'
    wait "$packages" || log=$venv/packages.log fail
    trap 'rm -rf "$build"' EXIT
fi

say 'install the OpenMMLab packages'
install $(compgen -G "$wheel_glob") "${requirements[@]}"

if [ "$form" = wheel ]; then
    install_wheel
else
    say 'install mmcdnv2, editable'
    install --no-deps -e .

    say 'check that everything imports, and compile the kernels'
    wait
    "$py" -c 'import mmcv.ops, mmdet, mmpretrain, mmcdnv2.ops
print(mmcdnv2.ops.describe())'
fi

fingerprint >"$stamp"
say 'ready'
