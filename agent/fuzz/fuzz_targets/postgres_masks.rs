//! See `portcullis_fuzz::postgres_masks`.
#![cfg_attr(fuzzing, no_main)]

portcullis_fuzz::target!(postgres_masks);
