//! The proxy's vocabulary: stream info, flags, replies, matchers, formats, stat handles.
