#!/usr/bin/env bash
# Unpack the contents of one call on the GPU machine: see README.md.
#   unpack.sh CALL     CALL is a folder that pack.py wrote
#   WORK               target folder: code, site (the packages), mosaics
set -e
mkdir -p "$WORK/mosaics"
cp "$1"/mosaics/* "$WORK/mosaics"
[ -f "$1/code.tar.gz" ] || exit 0
mkdir -p "$WORK/code"
tar xzf "$1/code.tar.gz" -C "$WORK/code"
python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade \
    --target "$WORK/site" "$1"/wheels/*.whl
