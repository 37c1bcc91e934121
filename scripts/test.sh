#!/usr/bin/env bash
# Lint, types, tests. Arguments go to pytest: bash scripts/test.sh tests/compress -k int1
set -euo pipefail
source "$(dirname "$0")/environment.sh"

prepare_environment test
bin="$VENV/bin"

has_postgresql() { compgen -G '/usr/lib/postgresql/*/bin/initdb' || command -v initdb; }
has_chromium() { command -v chromium || command -v chromium-browser || command -v google-chrome; }

# Where PACKAGE, for which FOUND looks, is not there: install it if that can be done, or say that tests are skipped.
want() {
  local package=$1 found=$2 tests=$3
  "$found" >/dev/null && return
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "installing $package, for the tests of $tests"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$package"; } >/dev/null 2>&1 || true
  fi
  "$found" >/dev/null || say "WARNING: $package is not here and could not be installed: the tests of $tests will be SKIPPED"
}
want postgresql has_postgresql "studies in PostgreSQL"
want chromium has_chromium "the dashboard and the report in a browser"

"$bin/ruff" check pipeline tests scripts examples
"$bin/ruff" format --check pipeline tests scripts examples
"$bin/mypy"
# One thread a worker: two workers with two threads each fight for two cores.
OMP_NUM_THREADS=1 "$bin/python" -m pytest --numprocesses "$(nproc)" --dist worksteal -rs "$@"
