//! See `portcullis_fuzz::analyze`.
#![cfg_attr(fuzzing, no_main)]

portcullis_fuzz::target!(analyze);
