# Sourced by the plugins in bin/, which have set `here`: finds the project's interpreter, whatever the
# working directory, PATH or activated environment. Sets `root` and `python`.
root=$(readlink -f "$here/../../..")
python=$root/.venv/bin/python
if [ ! -x "$python" ] && [ -n "${UV_PROJECT_ENVIRONMENT:-}" ]; then
  case $UV_PROJECT_ENVIRONMENT in
    /*) python=$UV_PROJECT_ENVIRONMENT/bin/python ;;
    *) python=$root/$UV_PROJECT_ENVIRONMENT/bin/python ;;
  esac
fi
if [ ! -x "$python" ]; then
  echo "$(basename "$0"): no interpreter at $python; run 'local/uv.sh sync' in $root" >&2
  exit 1
fi
# These would point the plugin itself at another Python; children get the program's own environment.
unset PYTHONHOME
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
