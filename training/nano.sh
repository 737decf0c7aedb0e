#!/usr/bin/env bash
# Train the nano model from nothing, part by part. Run the parts in this order; each can be stopped and run again.
#
#   training/nano.sh encoders     text, audio and video networks, side by side      -> humo_rt/assets/nano
#   training/nano.sh dit          base on short and on full clips, stage 1, stage 2 -> humo_rt/assets/nano
#   training/nano.sh judges       the networks that score videos                    -> runs/nano-judges
#   training/nano.sh evaluate     scores on held-out people, voices and sentences   -> runs/scores
#   training/nano.sh ablations    without focus-by-predicting; single stage         -> runs/scores
#
# Seconds per run, for machines lent by the minute (empty: the recipe's own number of steps):
#   TEXT_S AUDIO_S VIDEO_S SHORT_S BASE_S STAGE1_S STAGE2_S JUDGES_S ABLATION_S
# Devices: DEVICE (default cuda:0) for the main chain, SECOND (default DEVICE) for what runs beside it.
# FLAGS is added to every run, SHORT_FLAGS to the base on short clips, DIT_FLAGS to all other runs of the DiT: a dry run
# on a CPU gives small numbers there.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
DEVICE=${DEVICE:-cuda:0}
SECOND=${SECOND:-$DEVICE}
ASSETS=humo_rt/assets/nano

train() { # RECIPE DEVICE SECONDS [more flags]: continues the run if it was stopped
  local recipe=$1 device=$2 seconds=$3; shift 3
  # shellcheck disable=SC2086
  $PYTHON -m training.train "$recipe" --device "$device" --resume ${seconds:+--max-seconds "$seconds"} ${FLAGS:-} "$@"
}

ship() { # RUN FILE...: atomically, since a reader may look at any time
  local run=$1; shift
  mkdir -p "$ASSETS"
  for file in "$@"; do cp "runs/$run/$file" "$ASSETS/.$file" && mv "$ASSETS/.$file" "$ASSETS/$file"; done
}

encoders() {
  local failed=0
  train nano-vae "$DEVICE" "${VIDEO_S:-}" ${VIDEO_FLAGS:-} & local video=$!
  train nano-text-encoder "$SECOND" "${TEXT_S:-}" ${TEXT_FLAGS:-} & local text=$!
  train nano-audio-encoder "$SECOND" "${AUDIO_S:-}" ${AUDIO_FLAGS:-} & local audio=$!
  wait $video || failed=1; wait $text || failed=1; wait $audio || failed=1
  [ $failed = 0 ] || { echo "nano.sh: a network failed, see above" >&2; exit 1; }
  ship nano-vae vae.safetensors
  ship nano-text-encoder text_encoder.safetensors tokenizer.json
  ship nano-audio-encoder audio_encoder.safetensors
}

dit() {
  train nano-base-short "$DEVICE" "${SHORT_S:-}" ${SHORT_FLAGS:-}
  train nano-base "$DEVICE" "${BASE_S:-}" --init runs/nano-base-short ${DIT_FLAGS:-}
  train nano-stage1 "$DEVICE" "${STAGE1_S:-}" --init runs/nano-base ${DIT_FLAGS:-}
  train nano-stage2 "$DEVICE" "${STAGE2_S:-}" --init runs/nano-stage1 ${DIT_FLAGS:-}
  ship nano-stage2 dit.safetensors
}

judges() { train nano-judges "$SECOND" "${JUDGES_S:-}" ${JUDGES_FLAGS:-}; }

evaluate() {
  mkdir -p runs/scores
  $PYTHON -m training.evaluate --judges runs/nano-judges --device "$DEVICE" \
    --json runs/scores/full.json --sheet runs/scores/full.png ${EVALUATE_FLAGS:-}
}

ablations() {
  mkdir -p runs/scores
  train nano-stage2-no-focus "$SECOND" "${ABLATION_S:-}" --init runs/nano-stage1 ${DIT_FLAGS:-}
  train nano-single-stage "$SECOND" "${ABLATION_S:-}" --init runs/nano-base ${DIT_FLAGS:-}
  for run in nano-stage2-no-focus nano-single-stage; do
    $PYTHON -m training.evaluate --judges runs/nano-judges --device "$SECOND" --dit "runs/$run/dit.safetensors" \
      --json "runs/scores/$run.json" ${EVALUATE_FLAGS:-}
  done
}

case ${1:-} in
  encoders | dit | judges | evaluate | ablations) "$1" ;;
  *) sed -n '2,15s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
