//! See `portcullis_fuzz::shell`.
#![cfg_attr(fuzzing, no_main)]

portcullis_fuzz::target!(shell);
