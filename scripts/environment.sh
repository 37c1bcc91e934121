# Sourced by the scripts beside it: `prepare_environment EXTRA` makes the virtual environment, or uses it again when it
# is complete. It is .venv in the project's root unless VENV names another folder; PYTHON names the interpreter for a
# new one. The exact versions are those of the file $constraints.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
VENV=${VENV:-$root/.venv}
constraints=$root/scripts/constraints.txt

say() { printf '%s\n' "$*" >&2; }

is_complete() {
  "$VENV/bin/python" -c 'import optuna_dashboard, pipeline, timm, torchvision' 2>/dev/null
}

# The folder that restora is installed from in $VENV; nothing if it is not installed there.
installed_root() {
  [ -x "$VENV/bin/python" ] || return 0
  "$VENV/bin/python" -P - 2>/dev/null <<'PY' || true
import json
from importlib.metadata import distribution
from urllib.parse import unquote, urlsplit
origin = distribution("restora").read_text("direct_url.json")
print(unquote(urlsplit(json.loads(origin)["url"]).path) if origin else "a package index")
PY
}

prepare_environment() {
  local extra=$1 stamp wanted python other
  other=$(installed_root)
  if [ -n "$other" ] && [ "$other" != "$root" ] && [ -e "$other" ]; then
    say "error: $VENV belongs to the checkout $other; leave VENV out, or name another folder: VENV=$root/.venv bash $0"
    exit 2
  fi
  stamp="$VENV/.restora-$extra"
  wanted=$(cat "$root/pyproject.toml" "$constraints" | cksum)
  if [ "$other" = "$root" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && is_complete; then
    return
  fi
  python=${PYTHON:-python3}
  if ! "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'; then
    say "error: $("$python" --version 2>&1) is not supported; install Python 3.11, 3.12 or 3.13, or name it: PYTHON=python3.12 bash $0"
    exit 2
  fi
  say "installing $root into $VENV (torch brings its CUDA libraries along: 5.6 GB, some minutes)"
  [ -x "$VENV/bin/python" ] || "$python" -m venv "$VENV"
  # To compile all 18,000 files takes a minute; Python compiles those that are imported.
  "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile \
    --constraint "$constraints" --editable "$root[$extra]"
  if ! is_complete; then
    # A torch that was installed before may satisfy pip without being the one that torchvision was built for.
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --force-reinstall \
      --constraint "$constraints" torch torchvision
    "$VENV/bin/python" -c 'import torchvision'
  fi
  # Type checkers read .pth files, but do not see what an editable installation maps by an import hook.
  printf '%s\n' "$root" >"$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/checkout.pth"
  printf '%s\n' "$wanted" >"$stamp"
}
