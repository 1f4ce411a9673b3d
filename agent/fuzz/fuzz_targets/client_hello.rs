//! See `portcullis_fuzz::client_hello`.
#![cfg_attr(fuzzing, no_main)]

portcullis_fuzz::target!(client_hello);
