#!/bin/sh
# normflow: compiles one public header by itself. SPDX-License-Identifier: LGPL-2.1-or-later
#
#   check.sh C|C++ HEADER PUBLIC-HEADER... -- COMPILER...
#
# All public headers are put into one folder, as an installation does, and nothing else is found beside them.
set -eu

language=$1
header=$(basename -- "$2")
shift 2
folder=$(mktemp -d)
trap 'rm -rf -- "$folder"' EXIT
while [ "$1" != -- ]; do
  cp -- "$1" "$folder"
  shift
done
shift

case $language in
  C) set -- "$@" -x c -std=c99 ;;
  C++) set -- "$@" -x c++ -std=c++11 ;;
esac
# Included twice: it must guard itself.
printf '#include <%s>\n#include <%s>\n' "$header" "$header" >"$folder/alone.source"
# shellcheck disable=SC2046 # flags are words
"$@" -Wall -Wextra -Wpedantic -Werror -fsyntax-only $(pkg-config --cflags gio-2.0 | sed 's/-I/-isystem /g') \
  -I "$folder" "$folder/alone.source"
