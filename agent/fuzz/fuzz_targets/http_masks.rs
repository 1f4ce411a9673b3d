//! See `portcullis_fuzz::http_masks`.
#![cfg_attr(fuzzing, no_main)]

portcullis_fuzz::target!(http_masks);
