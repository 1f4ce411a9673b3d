//! See `portcullis_fuzz::postgres_codec`.
#![cfg_attr(fuzzing, no_main)]

portcullis_fuzz::target!(postgres_codec);
