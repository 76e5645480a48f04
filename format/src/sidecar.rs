//! `.elfuse-sidecar-index`: what one directory holds.
