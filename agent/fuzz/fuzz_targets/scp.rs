//! See `portcullis_fuzz::scp`.
#![cfg_attr(fuzzing, no_main)]

portcullis_fuzz::target!(scp);
