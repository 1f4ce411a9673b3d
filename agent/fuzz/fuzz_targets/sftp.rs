//! See `portcullis_fuzz::sftp`.
#![cfg_attr(fuzzing, no_main)]

portcullis_fuzz::target!(sftp);
