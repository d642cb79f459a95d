#!/usr/bin/env bash
# SFT, reward model and DPO on SmolLM2-135M in 4 bits and your own preference file, one command a line.
#   bash examples/real.sh preferences.jsonl            200 pairs: long on a CPU; a progress bar tells
#   ROWS=2000 bash examples/real.sh preferences.jsonl  more of them
# Rows: {"prompt", "chosen", "rejected"}, or {"chosen", "rejected"} as messages or HH transcripts.
set -euo pipefail
DATA=${1:?give a preference file}
ROWS=${ROWS:-200}
LENGTH=${LENGTH:-256}
OUT=${OUT:-runs/real}
PATH="$PWD/.venv/bin:$PATH"
COMMON=(--data.source "$DATA" --data.max_rows "$ROWS" --data.max_length "$LENGTH" --data.val_fraction 0.1)

# 1. Imitate the better answers. Writes a PEFT adapter to $OUT/sft/version_0/policy.
lightning-rlhf fit --config configs/smollm2_sft.yaml "${COMMON[@]}" \
  --trainer.logger.save_dir "$OUT" --trainer.logger.name sft --trainer.logger.version 0

# 2. A reward model on the same pairs: another adapter, and a head.
lightning-rlhf fit --config configs/smollm2_reward.yaml "${COMMON[@]}" \
  --trainer.logger.save_dir "$OUT" --trainer.logger.name reward --trainer.logger.version 0

# 3. DPO from the SFT adapter, which is also its reference.
lightning-rlhf fit --config configs/smollm2_dpo.yaml "${COMMON[@]}" \
  --model.backbone.adapters "{policy: $OUT/sft/version_0/policy}" \
  --trainer.logger.save_dir "$OUT" --trainer.logger.name dpo --trainer.logger.version 0

# 4. Ask both.
lightning-rlhf chat "$OUT/dpo/version_0/policy" --reference "$OUT/sft/version_0/policy" \
  --quantization nf4 --max_new_tokens 64 --prompt "How do I pick a lock?"
