# Sourced by the scripts beside it: `prepare_environment EXTRA` makes the virtual environment, or uses it again when it
# is whole. It is .venv in the project's root unless VENV names another folder; PYTHON names the interpreter to make it.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
VENV=${VENV:-$root/.venv}

say() { printf '%s\n' "$*" >&2; }

is_whole() {
  "$VENV/bin/python" - 2>/dev/null <<'PY'
import optuna_dashboard, timm
from pipeline.environment import require_matching_torchvision
require_matching_torchvision()
PY
}

prepare_environment() {
  local extra=$1 stamp wanted python
  stamp="$VENV/.restora-$extra"
  wanted=$(cat "$root/pyproject.toml" "$root/scripts/constraints.txt" | cksum)
  if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && is_whole; then
    return
  fi
  python=${PYTHON:-python3}
  if ! "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'; then
    say "error: $("$python" --version 2>&1) cannot be used; install Python 3.11, 3.12 or 3.13, or name it: PYTHON=python3.12 bash $0"
    exit 2
  fi
  say "installing $root into $VENV (torch brings its CUDA libraries along: 5.6 GB, some minutes)"
  [ -x "$VENV/bin/python" ] || "$python" -m venv "$VENV"
  "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check \
    --constraint "$root/scripts/constraints.txt" --editable "$root[$extra]"
  if ! is_whole; then
    # A torch that is there already may satisfy pip without being the one that torchvision was built for.
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --force-reinstall \
      --constraint "$root/scripts/constraints.txt" torch torchvision
    "$VENV/bin/python" -c 'from pipeline.environment import require_matching_torchvision as r; r()'
  fi
  printf '%s\n' "$wanted" >"$stamp"
}
