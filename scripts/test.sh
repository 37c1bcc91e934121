#!/usr/bin/env bash
# Lint, types, tests. Arguments go to pytest: bash scripts/test.sh tests/compress -k int1
# With --oldest first: only the tests, in .venv-oldest, with the oldest versions that pyproject.toml allows.
set -euo pipefail
source "$(dirname "$0")/environment.sh"

oldest=
if [ "${1:-}" = --oldest ]; then
  oldest=yes VENV=$root/.venv-oldest constraints=$root/scripts/constraints-oldest.txt
  shift
fi

has_postgresql() { compgen -G '/usr/lib/postgresql/*/bin/initdb' || command -v initdb; }
has_chromium() { command -v chromium || command -v chromium-browser || command -v google-chrome; }

# Install PACKAGE unless the command FOUND finds it; if that is impossible, say which TESTS are skipped.
want() {
  local package=$1 found=$2 tests=$3
  "$found" >/dev/null && return
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "installing $package, for the tests of $tests"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$package"; } >/dev/null 2>&1 || true
  fi
  "$found" >/dev/null || say "WARNING: $package is missing and could not be installed: the tests of $tests will be SKIPPED"
}
# Beside the Python packages, which come from another server.
{
  want postgresql has_postgresql "studies in PostgreSQL"
  want chromium has_chromium "the dashboard and the report in a browser"
} &
prepare_environment test
wait
bin="$VENV/bin"

if [ -z "$oldest" ]; then
  "$bin/ruff" check pipeline tests scripts examples
  "$bin/ruff" format --check pipeline tests scripts examples
  "$bin/mypy"
fi
# One thread per worker: two workers with two threads each compete for two cores. One worker more than cores, for tests
# that wait for commands, servers and pages leave a fifth of the cores' time.
OMP_NUM_THREADS=1 "$bin/python" -m pytest --numprocesses "$(($(nproc) + 1))" --dist worksteal -rs "$@"
