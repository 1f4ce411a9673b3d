//! See `portcullis_fuzz::postgres_proxy`.
#![cfg_attr(fuzzing, no_main)]

portcullis_fuzz::target!(postgres_proxy);
