# What a sandbox used, for the build's report: printed at its end, however it
# ends. It decides nothing of what is made, so it is no part of keys.

# measure_memory keeps the most memory in bytes that the sandbox had at once,
# without page cache, which the kernel drops when it needs room.
measure_memory() {
  local stat=/sys/fs/cgroup/memory.stat key value _ now peak=0
  [ -r "$stat" ] || stat=/sys/fs/cgroup/memory/memory.stat # cgroup v1
  while [ -r "$stat" ]; do
    now=0
    while read -r key value _; do
      case $key in anon | rss | shmem) now=$((now + value)) ;; esac
    done < "$stat"
    if [ "$now" -gt "$peak" ]; then
      peak=$now
      echo "$peak" > "${TMPDIR:-/tmp}/memory"
    fi
    sleep 1
  done
}

measured() {
  # user and system time of this shell, then of all that it ran
  times > "${TMPDIR:-/tmp}/times"
  echo "+ slipway: times $(tr '\n' ' ' < "${TMPDIR:-/tmp}/times")"
  if [ -s "${TMPDIR:-/tmp}/memory" ]; then
    echo "+ slipway: memory $(cat "${TMPDIR:-/tmp}/memory")"
  fi
  kill "$measuring" || true
}

measure_memory > /dev/null 2>&1 &
measuring=$!
trap measured EXIT

