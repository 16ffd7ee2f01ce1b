//! Envoy's v3 API for Outrider: typed messages, YAML/JSON mapping, field paths, descriptor rules.
