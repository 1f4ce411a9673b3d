//! See `portcullis_fuzz::terminal`.
#![cfg_attr(fuzzing, no_main)]

portcullis_fuzz::target!(terminal);
