//! Benchmarks: micro (criterion) and load (beside Envoy and HAProxy).
