#!/usr/bin/env bash
# Run uv: the one on PATH if it is new enough, else a pinned one in the user's cache.
set -euo pipefail
want=0.9.0
pinned=0.13.9
if command -v uv >/dev/null; then
  have=$(uv --version | awk '{print $2}')
  if [ "$(printf '%s\n%s\n' "$want" "$have" | sort -V | head -n 1)" = "$want" ]; then exec uv "$@"; fi
  echo "uv $have on PATH is older than $want; using uv $pinned from the cache instead" >&2
fi
home=${XDG_CACHE_HOME:-$HOME/.cache}/hybrid-recommender/uv-$pinned
if [ ! -x "$home/bin/uv" ]; then
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "python3 is $(python3 --version 2>&1); 3.11 or newer is needed: install it and run this again" >&2
    exit 2
  }
  echo "installing uv $pinned into $home" >&2
  rm -rf "$home.new.$$"
  python3 -m venv "$home.new.$$"
  "$home.new.$$/bin/python" -m pip install --quiet --disable-pip-version-check "uv==$pinned" >&2
  rm -rf "$home" && mkdir -p "$(dirname "$home")" && mv "$home.new.$$" "$home"
fi
exec "$home/bin/uv" "$@"
