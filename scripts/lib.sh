# What scripts/up and scripts/check share: install what is missing, and say plainly what that is.
# Sourced, never run. Needs Debian 12 or a relative of it, and root or sudo only if packages miss.

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$top/.venv
# pyfuse3 is built from source (hence the compiler); libisal2 is the fast coder, zfec the fallback.
packages=(python3-venv python3-dev gcc pkg-config libfuse3-dev fuse3 libisal2)
test_packages=(strace file) # strace: the crash tests see and break the daemon with it
test_packages+=(systemd-container) # the units, judged by systemd, in a machine where one can be booted
# The programs that tests/apps runs on the mount.
test_packages+=(git rsync make borgbackup libpython3.11-testsuite)

say() { printf '%s: %s\n' "${0##*/}" "$*"; }
fail() { say "$*" >&2; exit 1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

missing_packages() {
    local package
    for package in "${packages[@]}"; do
        [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] ||
            printf '%s\n' "$package"
    done
}

install_packages() {
    command -v dpkg-query >/dev/null || fail "this is no Debian: install the equivalents of ${packages[*]}"
    local missing
    mapfile -t missing < <(missing_packages)
    [ "${#missing[@]}" -gt 0 ] || return 0
    [ "$(id -u)" = 0 ] || command -v sudo >/dev/null ||
        fail "these packages are missing, and this user is not root and has no sudo: ${missing[*]}"
    say "installing Debian packages: ${missing[*]}"
    as_root apt-get -qq update
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends \
        "${missing[@]}" >/dev/null
}

# fusermount3 looks there before it unmounts for an ordinary user; a minimal Debian lacks it.
make_mtab() {
    [ ! -e /etc/mtab ] || return 0
    say "making /etc/mtab a link to /proc/self/mounts (fusermount3 needs it)"
    as_root ln -s ../proc/self/mounts /etc/mtab
}

# The interpreter must be 3.11 or newer and must bring what a virtual environment is made of.
find_python() {
    local python
    for python in /usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11; do
        if "$python" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$python"
            return
        fi
    done
    fail "Python 3.11 or newer with its venv module is needed; none was found"
}

stamp_of() { # EXTRAS: changes whenever what must be installed changes
    (cd "$top" && {
        printf '%s\n' "$1" "$top"
        [ "$1" = run ] || printf '%s\n' "${test_packages[@]}"
        cat pyproject.toml constraints.txt
    } | sha256sum)
}

# prepare run|dev: afterwards $venv holds aggfs, with [dev] also what the tests need.
prepare() {
    local wanted=$1 python
    [ "$wanted" = run ] || packages+=("${test_packages[@]}")
    exec 9>"$top/.venv.lock"
    flock 9
    if [ "$(cat "$venv/stamp-$wanted" 2>/dev/null)" != "$(stamp_of "$wanted")" ]; then
        install_packages
        make_mtab
        if [ ! -x "$venv/bin/python" ]; then
            python=$(find_python)
            say "making a virtual environment in .venv with $python"
            "$python" -m venv "$venv"
        fi
        case $wanted in
        run) say "installing aggfs and its Python packages into .venv (some minutes the first time)" ;;
        dev) say "installing aggfs, its Python packages and the test tools into .venv (some minutes the first time)" ;;
        esac
        (
            cd "$top"
            extras=$([ "$wanted" = dev ] && echo '[dev]' || true)
            "$venv/bin/python" -m pip install --quiet --quiet --disable-pip-version-check --root-user-action=ignore \
                -c constraints.txt -e ".$extras"
        )
        stamp_of "$wanted" >"$venv/stamp-$wanted"
        [ "$wanted" = run ] || stamp_of run >"$venv/stamp-run"
    fi
    exec 9>&-
}
