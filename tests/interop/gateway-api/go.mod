// The Gateway API as its project publishes it: its CRDs, with their rules, and its examples. Nothing is compiled.
module outrider.test/gateway-api

go 1.24

require sigs.k8s.io/gateway-api v1.5.1
