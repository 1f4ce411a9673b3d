//! See `portcullis_fuzz::http_request`.
#![cfg_attr(fuzzing, no_main)]

portcullis_fuzz::target!(http_request);
