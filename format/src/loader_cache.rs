//! loader_cache
