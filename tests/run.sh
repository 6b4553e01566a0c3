#!/usr/bin/env bash
# normflow: builds and runs every test. SPDX-License-Identifier: LGPL-2.1-or-later
#
#   ./tests/run.sh [ARGUMENT...]
#
# From any directory. Debian packages that are missing are installed if this runs as root (or sudo needs no
# password); the build directory is $NORMFLOW_BUILD, else build/. Arguments go to `meson test`, for instance
# names of tests or --suite core. The last line is "N passed, N failed", counted in test cases; the exit
# status is 0 only if none failed.
set -euo pipefail

tests=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname -- "$tests")
build=${NORMFLOW_BUILD:-$root/build}

case ${1:-} in
  -h | --help)
    sed -n '3,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 0
    ;;
esac

# Ends with the line that is promised whatever happens.
give_up() {
  echo "$*" >&2
  echo "0 passed, 1 failed"
  exit 1
}

install_packages() {
  command -v dpkg-query >/dev/null || return 0
  local missing=() package as_root=()
  while read -r package; do
    [[ -n $package && $package != \#* ]] || continue
    dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
  done <"$tests/packages.txt"
  [[ ${#missing[@]} -gt 0 ]] || return 0
  if [[ $EUID -ne 0 ]]; then
    if ! sudo -n true 2>/dev/null; then
      echo "These packages are missing; if the build fails, as root: apt-get install ${missing[*]}" >&2
      return 0
    fi
    as_root=(sudo -n)
  fi
  echo "Installing ${missing[*]}"
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -q >/dev/null
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -q -y --no-install-recommends "${missing[@]}" >/dev/null
}

install_packages || give_up "the packages of tests/packages.txt could not be installed"
if [[ ! -e $build/build.ninja ]]; then
  meson setup "$build" "$root" || give_up "meson could not configure $build"
fi
meson compile -C "$build" || give_up "the build failed"

log=$build/meson-logs/testlog.json
rm -f "$log"
status=0
meson test -C "$build" --no-rebuild --print-errorlogs "$@" || status=$?
[[ -s $log ]] || give_up "no test ran"
python3 "$tests/count-results.py" "$log" "$status"
