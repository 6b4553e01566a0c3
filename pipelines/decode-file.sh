#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# decode-file.sh LATENTS.gdp [VIDEO.mkv]
#
# Makes video from latents that encode-to-file.sh stored: into a lossless file (FFV1 in Matroska), or, without
# a second name, onto the screen. The model must be the one that made the latents. Of a file that was cut off the
# whole frames come out, and it is an error.

. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
[[ $# -ge 1 && $# -le 2 ]] || usage 2
[[ -f $1 ]] || fail "there is no file $1"
# gdpdepay says nothing of what is none
[[ $(head -c 2 "$1" | od -An -tx1) == ' 01 00' ]] || fail "$1 is no file that encode-to-file.sh stored"

# GDP is packets of 62 bytes, with their kind in bytes 4 and 5 (1 is a frame), and of as many more as bytes 6 to 9 say.
# gdpdepay ends in the midst of one as if it were the end. How many frames are whole, and where the last whole packet ends:
size=$(stat -Lc %s -- "$1")
read -r frames end < <(perl -e '
  open my $file, "<:raw", shift or exit 1;
  my ($size, $end, $frames) = (-s $file, 0, 0);
  while (read($file, my $head, 62) == 62) {
    my ($kind, $more) = unpack "x4 n N", $head;
    last if $end + 62 + $more > $size;
    $frames++ if $kind == 1;
    $end += 62 + $more;
    seek $file, $end, 0 or last;
  }
  print "$frames $end\n"' -- "$1") || fail "$1 cannot be read (which takes perl)"
((frames > 0)) || fail "there is no whole frame in $1: it was cut off, or nothing was encoded"

need_elements gdpdepay
if [[ $# == 2 ]]; then
  need_elements avenc_ffv1
  need_ending mkv "$2"
  begin_result "$2" "$1"
  at_once=0 # nobody watches
  sink=(avenc_ffv1 ! matroskamux ! filesink "location=$(quoted "$part")")
else
  at_once=1
  sink=(videoconvert ! autovideosink)
fi

gst-launch-1.0 -e filesrc "location=$(quoted "$1")" ! gdpdepay ! flowdecode "frames-at-once=$at_once" ! queue ! "${sink[@]}"
keep_results
((end == size)) || fail "$1 was cut off: its whole frames came out, $frames of them"
