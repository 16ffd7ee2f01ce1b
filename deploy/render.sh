#!/bin/sh
# Makes outrider.yaml and gateway.yaml from the chart, for those who have no helm. A test looks whether they are current.
#
#   deploy/render.sh [FOLDER]     HELM=program
set -eu
cd "$(dirname "$0")"
to=${1:-.}
helm=${HELM:-helm}

chart() {
  # Helm says on standard error that the CRDs of the chart are a link. Lines about helm itself have no place in what it does not manage.
  "$helm" template outrider chart/outrider -n outrider-system --kube-version 1.34.0 -f chart/outrider/ci/plain-values.yaml "$@" 2>"$to/.helm" ||
    { cat "$to/.helm" >&2; exit 1; }
}

made() {
  printf '# Made from the chart by deploy/render.sh; README.md says how it is used.\n'
  cat "$1"
  grep -v -e '^ *app.kubernetes.io/managed-by: Helm$' -e '^ *app.kubernetes.io/instance: outrider$' -e '^# Source: '
}

chart >"$to/.chart"
made namespace.yaml <"$to/.chart" >"$to/outrider.yaml"
chart -f chart/outrider/ci/gateway-values.yaml -s templates/gateways.yaml >"$to/.chart"
made gateway-namespace.yaml <"$to/.chart" >"$to/gateway.yaml"
rm -f "$to/.chart" "$to/.helm"
