#!/usr/bin/env bash
# The first run: an environment, a small study on real digits, its report and its checkpoints.
set -euo pipefail
source "$(dirname "$0")/environment.sh"

prepare_environment quickstart
restora="$VENV/bin/restora"
started=$SECONDS
"$restora" run quickstart
"$restora" export quickstart --force >/dev/null
page=$("$restora" report quickstart)
"$restora" status quickstart

cat <<EOF

Done in $((SECONDS - started)) s.
  report       $page
  tables       $(dirname "$page")/*.csv
  checkpoints  storage/exports/quickstart/<combination>/rank-<r>/ (model.safetensors, card.json)
  study        storage/studies.db

Next:
  $restora dashboard                  # browse every trial
  $restora new mystudy                # a commented study file of your own
  $restora --help
EOF
