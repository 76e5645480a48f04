//! ld_so_cache
