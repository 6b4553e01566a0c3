#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# play.sh MODEL [PATTERN [ACTIONS.ndjson]]
#
# A window with the true world of flowtestsrc (pong, or PATTERN) on the left, and on the right that of a model, which
# saw the true one for a second and goes on by itself. Arrows or w a s d drive both; Return shows the model the true
# world again, and lets go of keys that another window saw let go of; q or Escape ends. What was done is written to
# ACTIONS.ndjson, if it is given.

. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
[[ $# -ge 1 && $# -le 3 ]] || usage 2
need_elements compositor ximagesink
command -v play-world >/dev/null || use_build
command -v play-world >/dev/null || fail "play-world is not built: ./pipelines/demo.sh builds what is needed"
[[ -n ${DISPLAY:-} ]] || fail "there is no display (DISPLAY is not set)"
exec play-world "$@"
