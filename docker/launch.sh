#!/usr/bin/env bash
# `composer` for jobs that a cluster may preempt. It takes the same arguments, passes SIGTERM and SIGUSR1 on to the ranks
# as SIGUSR1, and exits with the code of the rank that failed first.
#
#   docker/launch.sh -n 8 -m modernbert_train train yamls/pretrain/modernbert-base.yaml
#   docker/launch.sh torchrun --nproc-per-node 8 -m modernbert_train train yamls/pretrain/modernbert-base.yaml
#
# The ranks finish the step, save, and exit with 138 ("run me again"), and so does this script. `composer` alone gives its
# ranks 30 seconds after SIGTERM, which may be too short for a large checkpoint, and is killed by SIGUSR1 at once.
set -euo pipefail

program=composer
case ${1-} in composer | torchrun) program=$1 && shift ;; esac
MODERNBERT_EXIT_CODE_FILE=$(mktemp -u) # modernbert_train/common/processes.py: the first rank that fails writes it
export MODERNBERT_EXIT_CODE_FILE
# torchrun with --nnodes MIN:MAX: with a shared store, torch 2.14 waits without end when a node joins.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1

trap '' USR1 # the launcher inherits the ignored signal; the ranks install their own handlers
"$program" "$@" &
launcher=$!

# shellcheck disable=SC2329 # called by the traps
ask_ranks() {
  local ranks
  read -r -a ranks <"/proc/$launcher/task/$launcher/children" || true
  kill -"$1" "${ranks[@]}" || true
}
trap 'ask_ranks USR1' TERM USR1
trap 'ask_ranks INT' INT # Ctrl-C, which bash makes programs in the background ignore

while kill -0 "$launcher" 2>/dev/null; do
  wait "$launcher" || true # interrupted by signals
done
status=0
wait "$launcher" || status=$?
if [ "$status" -ne 0 ] && [ -s "$MODERNBERT_EXIT_CODE_FILE" ]; then
  read -r status <"$MODERNBERT_EXIT_CODE_FILE" || true
  rm -f "$MODERNBERT_EXIT_CODE_FILE"
elif [ "$status" -gt 192 ]; then
  status=$((384 - status)) # `composer` reports signal n as 256 - n, everything else as 128 + n
fi
exit "$status"
