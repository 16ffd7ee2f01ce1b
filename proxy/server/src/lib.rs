//! The composition root: controller, workers, drain, admin, signals.
