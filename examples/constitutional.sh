#!/usr/bin/env bash
# Constitutional AI on your own prompts, one command per stage: the same as configs/smollm2_constitutional.yaml.
#   bash examples/constitutional.sh prompts.jsonl               24 prompts on SmolLM2-135M
#   MODEL=Qwen/Qwen2.5-1.5B-Instruct ROWS=2000 bash examples/constitutional.sh prompts.jsonl
# Rows: {"prompt"}. If it is killed, start it again: $OUT/journal.jsonl keeps all answers, so no request is repeated.
set -euo pipefail
PROMPTS=${1:?give a file of prompts}
MODEL=${MODEL:-HuggingFaceTB/SmolLM2-135M-Instruct}
ROWS=${ROWS:-24}
TOKENS=${TOKENS:-64}
OUT=${OUT:-runs/constitutional_example}
PATH="$PWD/.venv/bin:$PATH"
BASE=(--model.backbone Backbone --model.backbone.name_or_path "$MODEL")
ASK=(--data PromptData --data.source "$PROMPTS" --data.max_rows "$ROWS" --data.val_fraction 0 --data.batch_size 8)
RUN=(--trainer.default_root_dir "$OUT" --trainer.logger false)
LOG=lightning_rlhf.callbacks.WriteRows

# 1. Draft, then four rounds of principle, critique and revision, by the bare model and the built-in constitution.
lightning-rlhf predict --model SelfCritiqueModule "${BASE[@]}" --model.generator base \
  --model.loop SelfCritique --model.loop.shots 1 --model.sampling.max_new_tokens "$TOKENS" \
  "${ASK[@]}" "${RUN[@]}" --trainer.callbacks "$LOG" --trainer.callbacks.path "$OUT/chains.jsonl"

# 2. Check the revisions by gates. Training on revisions alone needs --pure true; --helpful rows.jsonl is better.
lightning-rlhf build-demonstrations "$OUT/chains.jsonl" "$OUT/revisions" --pure true ${GATES:-}

# 3. Imitate the revisions of all rounds.
lightning-rlhf fit --model SFTModule "${BASE[@]}" --model.lr 2e-4 \
  --data DemonstrationData --data.source "$OUT/revisions/rows.jsonl" --data.max_length 256 \
  "${RUN[@]}" --trainer.max_epochs 1 --trainer.callbacks lightning_rlhf.callbacks.SaveRoles --trainer.callbacks.folder "$OUT/sl"

# 4. Two samples per prompt, judged in both orders by the bare model: soft labels.
lightning-rlhf predict --model AIFeedbackModule "${BASE[@]}" --model.backbone.adapters "{policy: $OUT/sl/policy}" \
  --model.judge base --model.feedback AIFeedback --model.feedback.shots 1 --model.sampling.max_new_tokens "$TOKENS" \
  "${ASK[@]}" "${RUN[@]}" --trainer.callbacks "$LOG" --trainer.callbacks.path "$OUT/labels.jsonl"

# 5. DPO on the soft labels; the initial policy is the reference.
lightning-rlhf fit --model DPOModule "${BASE[@]}" --model.backbone.adapters "{policy: $OUT/sl/policy}" --model.lr 5e-5 \
  --data PreferenceData --data.source "$OUT/labels.jsonl" --data.max_length 256 --data.batch_size 4 --data.val_fraction 0 \
  "${RUN[@]}" --trainer.max_epochs 1 --trainer.callbacks lightning_rlhf.callbacks.SaveRoles --trainer.callbacks.folder "$OUT/dpo"

# 6. The history of the first training row.
lightning-rlhf trace "$(head -n 1 "$OUT/revisions/rows.jsonl" | python -c 'import json; print(json.loads(input())["id"])')" "$OUT"
