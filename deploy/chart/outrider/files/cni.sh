#!/bin/sh
# Puts the plugin of `outrider capture cni` on a node, and keeps it there: the binary among the runtime's plugins, and an entry at the end
# of the network's configuration, also after somebody wrote that anew.
#
#   cni.sh install   and stay       cni.sh check   whether all is there       cni.sh remove   and stay
#   cni.sh once install|remove
#
# At the end of the pod nothing is taken away: pods that start meanwhile would start without capture.
set -eu
bin=${CNI_BIN:-/host/bin}
conf=${CNI_CONF:-/host/conf}
binary=${CNI_BINARY:-/usr/local/bin/outrider}
name=outrider-cni
here=$(dirname "$0")

say() { echo "outrider-cni: $*" >&2; }

# The network that the runtime takes: the first by name.
network() {
  for file in "$conf"/*; do
    case $file in
      *.conflist) echo "$file"; return ;;
      *.conf | *.json) say "$file: a single configuration has no chain; make a .conflist of it"; return 1 ;;
    esac
  done
  say "no network is configured in $conf yet"
  return 1
}

# Writes a file in one go, as somebody may read it at any time: what it is to have comes by standard input.
replace() {
  cat >"$1.$name" && chmod "$2" "$1.$name" && mv -f "$1.$name" "$1"
}

chained() {
  jq -e --slurpfile plugin "$here/plugin.json" 'any(.plugins[]; . == $plugin[0])' "$1" >/dev/null 2>&1
}

install() {
  cmp -s "$binary" "$bin/$name" || replace "$bin/$name" 0755 <"$binary" || return 1
  file=$(network) || return 1
  chained "$file" && return 0
  changed=$(jq --slurpfile plugin "$here/plugin.json" \
    '.plugins |= (map(select(.type != $plugin[0].type)) + $plugin)' "$file") || return 1
  printf '%s\n' "$changed" | replace "$file" 0600 || return 1
  say "$file has the plugin now"
}

remove() {
  for file in "$conf"/*.conflist; do
    [ -f "$file" ] || continue
    grep -q "\"$name\"" "$file" || continue
    changed=$(jq --arg name "$name" '.plugins |= map(select(.type != $name))' "$file") || return 1
    printf '%s\n' "$changed" | replace "$file" 0600 || return 1
    say "$file has the plugin no longer"
  done
  rm -f "$bin/$name"
}

case ${1-} in
  check)
    cmp -s "$binary" "$bin/$name" && file=$(network) && chained "$file"
    ;;
  once)
    case ${2-} in install | remove) "$2" ;; *) exit 2 ;; esac
    ;;
  install | remove)
    trap 'exit 0' TERM INT
    while :; do
      "$1" || say "it is tried again"
      sleep 5 &
      wait $!
    done
    ;;
  *)
    say "want install, check, remove, or once and one of them"
    exit 2
    ;;
esac
