# One budget of jobs for all sandboxes of the engine: a GNU make jobserver
# (https://www.gnu.org/software/make/manual/html_node/POSIX-Jobserver.html) whose
# tokens lie in a FIFO that they share. Functions hand them to the programs that
# specs call by name. It decides nothing of what is made, so it
# is no part of keys.
RPM_BUILD_NCPUS=$(nproc)
export RPM_BUILD_NCPUS
SLIPWAY_CPUS=$RPM_BUILD_NCPUS # rpm lowers the other where a spec says so
export SLIPWAY_CPUS

# share_jobs opens the FIFO. Each sandbox keeps a shared lock on it until its
# last process is gone, so one that gets the lock for itself is alone, and fills
# the FIFO anew: with that, tokens that killed sandboxes had are back. Every make
# has one job without a token.
share_jobs() {
  local fifo=$SLIPWAY_JOBS/fifo
  [ -p "$fifo" ] || mkfifo "$fifo" || [ -p "$fifo" ] || return 1 # another may have been quicker
  exec 200<> "$fifo" || return 1
  if flock --exclusive --nonblock 200; then
    while IFS= read -r -N 1 -t 0.01 -u 200 _; do :; done
    printf '%*s' $((SLIPWAY_CPUS - 1)) '' | tr ' ' + >&200 || return 1
  fi
  flock --shared 200 || return 1
  export -f make ninja go take_jobs give_jobs # to the shells of rpmbuild
}

# make gives every make that is told to use all processors the shared budget
# instead. Others, such as a "make install" that is to go one by one, are left
# alone, and so are makes below a make, which know what to do.
make() {
  { local -; set +x; } 2> /dev/null
  local arg args=() parallel=
  for arg; do
    if [ "$arg" = "-j$SLIPWAY_CPUS" ]; then parallel=1; else args+=("$arg"); fi
  done
  if [ -z "$parallel" ] || [ -n "${MAKELEVEL:-}" ]; then
    command make "$@"
  else
    MAKEFLAGS="${MAKEFLAGS:-} -j$SLIPWAY_CPUS --jobserver-auth=200,200" command make "${args[@]}"
  fi
}

# take_jobs sets jobs to what a program that knows nothing of jobservers may run at
# once: one, and as many as there are tokens free at its start. give_jobs gives
# them back at its end. What is killed gives none back, see share_jobs.
take_jobs() {
  jobs=1
  while [ "$jobs" -lt "$SLIPWAY_CPUS" ] && IFS= read -r -N 1 -t 0.01 -u 200 _; do jobs=$((jobs + 1)); done
}

give_jobs() { printf '%*s' $((jobs - 1)) '' | tr ' ' + >&200; }

# ninja gives every ninja that is to use all processors, as it does by itself,
# the jobs that are free.
ninja() {
  { local -; set +x; } 2> /dev/null
  local arg args=() jobs status=0
  for arg; do
    case $arg in
      -j"$SLIPWAY_CPUS") ;;
      -j*) command ninja "$@"; return ;;
      *) args+=("$arg") ;;
    esac
  done
  take_jobs
  command ninja "-j$jobs" "${args[@]}" || status=$?
  give_jobs
  return "$status"
}

# go gives every go the jobs that are free, but for one that is told how many.
go() {
  { local -; set +x; } 2> /dev/null
  local jobs status=0
  if [ -n "${GOMAXPROCS:-}" ]; then
    command go "$@"
    return
  fi
  take_jobs
  GOMAXPROCS=$jobs command go "$@" || status=$?
  give_jobs
  return "$status"
}

[ "$SLIPWAY_CPUS" -eq 1 ] || share_jobs || echo "the job budget cannot be shared: each make takes all processors"

