#!/usr/bin/env bash
# composer, for jobs that a cluster may stop: the same arguments, but SIGTERM and SIGUSR1 become a request to its ranks.
#
#   docker/launch.sh -n 8 -m modernbert_train train yamls/pretrain/modernbert-base.yaml
#
# The ranks finish the step, save, and end with 138 ("start me again"), and so does this. composer by itself gives its
# ranks 30 seconds after a SIGTERM, which may be too few for a large checkpoint, and dies of a SIGUSR1 at once.
set -euo pipefail

trap '' USR1 # what is ignored here, composer ignores too; the ranks have handlers of their own
composer "$@" &
composer=$!

ask_ranks() {
  local ranks
  read -r -a ranks <"/proc/$composer/task/$composer/children" || true
  kill -USR1 "${ranks[@]}" || true
}
trap ask_ranks TERM USR1

while kill -0 "$composer" 2>/dev/null; do
  wait "$composer" || true # a signal interrupts it
done
wait "$composer"
