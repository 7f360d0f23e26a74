# What a sandbox used, for the build's report: printed at its end, however it
# ends. It decides nothing of what is made, so it is no part of keys.

# The cgroup's own peak has page cache in it, which the kernel drops when it needs
# room: a build that only wrote 300 MB of files would seem to need 300 MB. So the
# rest is read often: up to 0.5 ms each time, without a process.
memory_stat=/sys/fs/cgroup/memory.stat
[ -r "$memory_stat" ] || memory_stat=/sys/fs/cgroup/memory/memory.stat # cgroup v1
memory_peak=0

# measure_memory keeps the most memory in bytes that the sandbox had at once.
measure_memory() {
  local lines line now=0
  mapfile -n 16 -t lines < "$memory_stat" || return 1 # what counts comes early
  for line in "${lines[@]}"; do
    case $line in "anon "* | "rss "* | "shmem "*) now=$((now + ${line#* })) ;; esac
  done
  if [ "$now" -gt "$memory_peak" ]; then
    memory_peak=$now
    echo "$memory_peak" >> "${TMPDIR:-/tmp}/memory" # not anew: it may be killed
  fi
}

# keep_measuring reads it twenty times a second at first, so that short builds are
# measured as well, and then less often, so that long ones are not slowed.
keep_measuring() {
  local never pause=0.05
  exec {never}<> <(:) # nothing comes from there
  while measure_memory; do
    [ "$SECONDS" -lt 10 ] || pause=0.25
    read -r -t "$pause" -u "$never" _ || true
  done
}

measured() {
  # user and system time of this shell, then of all that it ran
  times > "${TMPDIR:-/tmp}/times"
  echo "+ slipway: times $(tr '\n' ' ' < "${TMPDIR:-/tmp}/times")"
  kill "$measuring" || true
  if [ -s "${TMPDIR:-/tmp}/memory" ]; then
    memory_peak=$(tail -n 1 "${TMPDIR:-/tmp}/memory")
  fi
  if measure_memory; then
    echo "+ slipway: memory $memory_peak"
  fi
}

keep_measuring > /dev/null 2>&1 &
measuring=$!
trap measured EXIT

