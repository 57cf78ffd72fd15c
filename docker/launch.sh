#!/usr/bin/env bash
# `composer` for jobs that a cluster may preempt. It takes the same arguments, and passes SIGTERM and SIGUSR1 on to the
# ranks as SIGUSR1.
#
#   docker/launch.sh -n 8 -m modernbert_train train yamls/pretrain/modernbert-base.yaml
#
# The ranks finish the step, save, and exit with 138 ("run me again"), and so does this script. `composer` alone gives its
# ranks 30 seconds after SIGTERM, which may be too short for a large checkpoint, and is killed by SIGUSR1 at once.
set -euo pipefail

trap '' USR1 # composer inherits the ignored signal; the ranks install their own handlers
composer "$@" &
composer=$!

ask_ranks() {
  local ranks
  read -r -a ranks <"/proc/$composer/task/$composer/children" || true
  kill -USR1 "${ranks[@]}" || true
}
trap ask_ranks TERM USR1

while kill -0 "$composer" 2>/dev/null; do
  wait "$composer" || true # interrupted by signals
done
wait "$composer"
