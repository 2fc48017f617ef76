#!/usr/bin/env bash
# The demonstration of floor 8 in one command: Debian's package lists → rows → LoRA of the starter model → report.
#
#     benchmarks/tuning_demo.sh OUT        (needs apt; under a quarter of an hour on two cores; run it again to go on)
set -euo pipefail
out=$(realpath -m "$1")
here=$(dirname "$(realpath "$0")")
mkdir -p "$out/lists/partial"
[ -s "$out/rows/train.jsonl" ] || {
    apt-get -q -o Acquire::Languages=en -o Dir::State::lists="$out/lists" update
    python "$here/debian_synopses.py" "$out/lists" "$out/rows"
}
python -m ninestory tune run starter-lora --name debian-synopses --data "$out/rows/train.jsonl" \
    --set data.limit=20000 --set "data.held_out=['$out/rows/held_out.jsonl']" \
    --set train.max_steps=48 --set train.batch_size=8 --set train.save_every=16 \
    --set evaluate.eval_samples=60 --set evaluate.max_tokens=20 --set evaluate.forgetting_text=/usr/share/common-licenses/GPL-3
python -m ninestory tune report debian-synopses
