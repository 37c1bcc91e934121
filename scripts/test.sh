#!/usr/bin/env bash
# Lint, types, tests. Arguments go to pytest: bash scripts/test.sh tests/compress -k int1
set -euo pipefail
source "$(dirname "$0")/environment.sh"

prepare_environment test
bin="$VENV/bin"

if ! compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null && ! command -v initdb >/dev/null; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "installing PostgreSQL, which the storage tests run on"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq postgresql; } >/dev/null 2>&1 || true
  fi
  compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null ||
    say "WARNING: no PostgreSQL server is here and none could be installed: its tests will be SKIPPED"
fi

"$bin/ruff" check pipeline tests scripts
"$bin/ruff" format --check pipeline tests scripts
"$bin/mypy"
# One thread a worker: two workers with two threads each fight for two cores.
OMP_NUM_THREADS=1 "$bin/python" -m pytest --numprocesses "$(nproc)" --dist worksteal "$@"
