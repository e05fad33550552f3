# What `demo`, `check` and `bench/run` need before they begin. Read by them (`. ./setup.sh`), not run.

set -eu
cd "$(dirname "$(readlink -f "$0")")"
[ -f setup.sh ] || cd ..

# One place outside the source tree for all that is built and kept, so that a clean clone builds nothing twice.
cache="${XDG_CACHE_HOME:-$HOME/.cache}/bento"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$cache/target}"
mkdir -p "$cache"
binaries="$CARGO_TARGET_DIR/debug"

say() { printf '%s\n' "$*"; }
fail() { printf 'Error: %s\nHint: %s\n' "$1" "$2" >&2; exit 1; }

command -v cargo >/dev/null || fail "cargo is not installed" "https://rustup.rs installs it"
[ -x /usr/bin/python3 ] || fail "/usr/bin/python3 is not installed" "apt-get install python3"

# need PACKAGE…: installs the Debian packages that are missing, when it may.
need() {
    missing=
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
    done
    [ -z "$missing" ] && return
    install="apt-get install -y --no-install-recommends$missing"
    if [ "$(id -u)" = 0 ]; then
        as_root=
    elif sudo -n true 2>/dev/null; then
        as_root="sudo -n"
    else
        fail "these Debian packages are missing:$missing" "sudo apt-get update && sudo $install"
    fi
    say "installing$missing"
    export DEBIAN_FRONTEND=noninteractive
    { $as_root apt-get update && $as_root $install; } >"$cache/apt.log" 2>&1 || {
        tail -n 5 "$cache/apt.log" >&2
        fail "the packages could not be installed" "sudo apt-get update && sudo $install"
    }
}

# What functions of the images `web`, `shard` and `tor` use, the daemon itself, and a C compiler's linker for cargo.
packages="tor gcc libc6-dev ca-certificates python3-requests python3-urllib3 python3-html5lib python3-tinycss2 python3-brotli python3-lxml python3-bs4"
packages="$packages python3-zfec python3-nacl python3-stem python3-cryptography"

# wheels: the one package that Shard can use and Debian does not have. Fixed to its digest; without it, the tests of this mode are skipped.
wheels() {
    export BENTO_WHEELS="$cache/wheels"
    [ -d "$BENTO_WHEELS/raptorq" ] && return
    say "installing raptorq"
    /usr/bin/python3 -m pip install --quiet --no-deps --only-binary :all: --require-hashes --target "$BENTO_WHEELS" -r packaging/raptorq.txt \
        >"$cache/pip.log" 2>&1 || say "SKIPPED: raptorq cannot be had from here ($cache/pip.log says why); Shard's mode fountain is not tested"
}
