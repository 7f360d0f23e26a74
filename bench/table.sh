# Sourced by the other scripts: time, arithmetic, and a table of results with bars.
# shellcheck shell=bash
export LC_ALL=C # a point in decimal fractions
rows=()
missed=0

# calc EXPR: the value of an expression of numbers
calc() { awk "BEGIN { printf \"%.4g\", ($1) }"; }

# median: the median of the numbers on standard input, one a line
median() { sort -g | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }

# seconds LOG COMMAND...: run a command with its output going to LOG; print the wall
# time that it took. A failure shows the log.
seconds() {
  local log=$1 begin=$EPOCHREALTIME end
  shift
  "$@" >"$log" 2>&1 || { echo "failed: $*" >&2; tail -n 50 "$log" >&2; return 1; }
  end=$EPOCHREALTIME
  awk "BEGIN { printf \"%.6f\n\", $end - $begin }"
}

# row WHAT FIGURE: a line without a bar
row() { rows+=("| $1 | $2 | | |"); }

# bar WHAT NUMBER UNIT <=|>= LIMIT: a line with a bar, which is missed or not
bar() {
  local verdict=pass
  [ "$(awk "BEGIN { print ($2 $4 $5) }")" = 1 ] || { verdict=FAIL; missed=$((missed + 1)); }
  rows+=("| $1 | $2 $3 | $4 $5 $3 | $verdict |")
}

# finish: print the table; the status is 1 when a bar was missed
finish() {
  echo
  echo "$(nproc) processors, $(date -u +%F), $(git rev-parse --short HEAD)"
  echo
  echo "| what | figure | bar | |"
  echo "|---|---|---|---|"
  printf '%s\n' "${rows[@]}"
  [ "$missed" = 0 ]
}

# need PROGRAM=PACKAGE...: install Debian packages whose programs are missing
need() {
  local pair missing=()
  for pair; do
    [ -x "${pair%%=*}" ] || missing+=("${pair#*=}")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  echo "installing with apt: ${missing[*]}" >&2
  [ "$(id -u)" = 0 ] || { echo "not root: run  apt-get install ${missing[*]}" >&2; return 1; }
  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" >&2
}
